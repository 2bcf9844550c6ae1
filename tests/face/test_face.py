import dataclasses
import logging

import numpy as np
import pytest
import scipy.spatial

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face, output_size

EMBEDDING = np.random.default_rng(0).normal(size=512).astype(np.float32)
KPS = np.array([[40, 50], [70, 50], [55, 70], [42, 90], [68, 90]], np.float32)


def whole_face(**changes):
    values = dict(image_size=(200, 100), bbox=[20, 30, 90, 110], det_score=0.75) | changes
    return Face(**{"embedding": EMBEDDING, "kps": KPS} | values)


def assert_same(a, b):
    for field in dataclasses.fields(Face):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert type(one) is type(other)
        np.testing.assert_array_equal(one, other)


def test_keypoints_far_from_any_photo_name_their_file(tmp_path):
    with pytest.raises(InputError, match=r"keypoints lie at 1e\+09: expected pixels of the image"):
        whole_face(kps=np.full((5, 2), 1e9))
    np.savez(tmp_path / "far.npz", embedding=EMBEDDING, kps=np.full((5, 2), 1e9))
    with pytest.raises(InputError, match=r"far\.npz: keypoints lie at"):
        Face.load(tmp_path / "far.npz")


def test_fields_are_float32_copies_that_cannot_change():
    kps = KPS.astype(np.float64)
    face = Face(embedding=list(map(float, EMBEDDING)), kps=kps)
    kps[:] = 0
    np.testing.assert_array_equal(face.kps, KPS)
    assert face.kps.dtype == face.embedding.dtype == np.float32
    with pytest.raises(ValueError):
        face.kps[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        face.kps = KPS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": EMBEDDING[None]}, r"embedding has shape \[1, 512\]: expected \[D\]"),
        ({"embedding": []}, r"embedding has shape \[0\]"),
        ({"embedding": EMBEDDING * np.nan}, "embedding holds NaN"),
        ({"embedding": None}, "not an array of numbers|embedding has shape|holds NaN"),
        ({"embedding": "me.jpg"}, "not an array of numbers"),
        ({"kps": KPS[:4]}, r"kps has shape \[4, 2\]: expected \[5, 2\]"),
        ({"kps": KPS.astype(float) * 1e300}, "kps holds NaN or infinity"),
        ({"bbox": [1, 2, 3]}, r"bbox has shape \[3\]"),
        ({"image_size": (0, 5)}, r"image_size is \[0, 5\]"),
        ({"det_score": float("nan")}, "det_score holds NaN"),
    ],
)
def test_bad_values_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        whole_face(**changes)


def test_embeddings_of_other_lengths_are_taken():
    assert whole_face(embedding=np.arange(7.0)).embedding.shape == (7,)


def test_warns_of_a_normalized_embedding(caplog):
    with caplog.at_level(logging.WARNING):
        whole_face()
        assert not caplog.records
        whole_face(embedding=EMBEDDING / np.linalg.norm(EMBEDDING))
    assert "raw one" in caplog.text


def test_saving_and_loading_keeps_everything(tmp_path):
    face = whole_face()
    for name in ("me.npz", "deep/folder/without_suffix"):
        face.save(tmp_path / name)
        assert_same(Face.load(tmp_path / name), face)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "me.npz"]


def test_a_face_of_two_fields_saves_and_loads(tmp_path):
    face = Face(embedding=EMBEDDING, kps=KPS)
    face.save(tmp_path / "me.npz")
    assert_same(Face.load(tmp_path / "me.npz"), face)


def test_load_names_what_is_wrong_with_a_file(tmp_path):
    def refuses(name, message):
        with pytest.raises(InputError, match=message) as error:
            Face.load(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)

    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff not numpy")
    np.save(tmp_path / "array.npy", EMBEDDING)
    np.savez(tmp_path / "other.npz", vector=EMBEDDING)
    np.savez(tmp_path / "pickled.npz", embedding=np.array([{}], dtype=object), kps=KPS)
    np.savez(tmp_path / "shape.npz", embedding=EMBEDDING, kps=KPS[:3])
    whole_face().save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:1000])
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "folder.npz").mkdir()

    refuses("missing.npz", "no such file")
    refuses("photo.jpg", "not a face file")
    refuses("array.npy", "not a face file")
    refuses("other.npz", "lacks embedding and kps and holds vector")
    refuses("pickled.npz", "not a face file")
    refuses("shape.npz", r"kps has shape \[3, 2\]")
    refuses("cut.npz", "not a face file")
    refuses("empty.npz", "not a face file")
    refuses("folder.npz", "not a face file")


def test_mean_averages_raw_embeddings_and_keeps_the_rest_of_the_first():
    second = whole_face(embedding=3 * EMBEDDING, kps=KPS + 9, image_size=(7, 7), det_score=0.1)
    mean = Face.mean([whole_face(), second])
    assert_same(mean, whole_face(embedding=2 * EMBEDDING))


def test_mean_of_one_face_is_that_face():
    assert_same(Face.mean([whole_face()]), whole_face())


def test_mean_needs_faces_of_one_kind():
    with pytest.raises(InputError, match="no faces"):
        Face.mean([])
    with pytest.raises(InputError, match=r"\[3, 512\]"):
        Face.mean([whole_face(), whole_face(embedding=np.ones(3))])


def test_kps_of_the_photo_scale_with_the_output():
    np.testing.assert_array_equal(whole_face().kps_for(200, 100), KPS)
    np.testing.assert_allclose(whole_face().kps_for(400, 200), 2 * KPS)


def test_kps_fit_a_wider_output_centered_and_unstretched():
    # 200 x 100 into 400 x 1000: twice the size, 200 of 1000 columns, 400 to the left of them.
    np.testing.assert_allclose(whole_face().kps_for(400, 1000), 2 * KPS + [400, 0])
    np.testing.assert_allclose(whole_face().kps_for(1000, 50), KPS / 2 + [0, 450])


def test_kps_without_a_photo_are_pixels_of_the_output():
    np.testing.assert_array_equal(whole_face(image_size=None).kps_for(17, 3), KPS)


@pytest.mark.parametrize(
    ("photo", "long_side", "output"),
    # (height, width); the first four are InstantID's own resize at its default, 1280.
    [
        ((512, 512), 1280, (1280, 1280)),
        ((1080, 1920), 1280, (704, 1280)),
        ((480, 640), 1280, (960, 1280)),
        ((2000, 500), 1280, (1280, 320)),
        ((512, 512), 1024, (1024, 1024)),
        ((1080, 1920), 1024, (576, 1024)),
        ((480, 640), 1024, (768, 1024)),
        ((4032, 3024), 1024, (1024, 768)),
        ((1535, 2047), 1024, (768, 1024)),  # 767.9 is rounded before it is floored
        ((10, 1000), 1024, (64, 1024)),
        ((1, 1), 1024, (1024, 1024)),
    ],
)
def test_output_size_keeps_the_aspect_ratio(photo, long_side, output):
    assert output_size(photo, long_side) == output


def test_output_size_takes_other_multiples():
    assert output_size((100, 75), long_side=128, multiple=8) == (128, 96)


def test_faces_of_two_recognizers_have_no_mean():
    first, second, unknown = (
        Face(embedding=np.ones(4), kps=np.zeros((5, 2)), face_pack=pack, recognizer=recognizer)
        for pack, recognizer in (("antelopev2", "a"), ("buffalo_l", "b"), (None, None))
    )
    named = dataclasses.replace(second, recognizer=None)
    with pytest.raises(InputError, match="of the face packs antelopev2, buffalo_l: use one"):
        Face.mean([first, unknown, second])
    with pytest.raises(InputError, match="of the face packs antelopev2, buffalo_l: use one"):
        Face.mean([first, named])
    assert Face.mean([second, named]).recognizer == "b"
    assert Face.mean([first, unknown]).face_pack == "antelopev2"


def test_keypoints_that_are_not_pixels_of_the_photo_get_a_warning(caplog):
    for kps, message in (
        (KPS / 200, "lie within 2 pixels: give pixels of the photo, not shares"),
        (np.full((5, 2), 50), "lie within 2 pixels"),
        (KPS - 1000, "lie outside of its photo of 100 x 200 pixels"),
    ):
        caplog.clear()
        whole_face(kps=kps)
        assert message in caplog.messages[0] and len(caplog.messages) == 1
    caplog.clear()
    whole_face()
    whole_face(kps=KPS - 60)
    assert not caplog.messages


def test_values_that_no_detector_gives_are_refused(tmp_path):
    one = {"embedding": np.ones(4), "kps": np.zeros((5, 2))}
    Face(**one | {"embedding": np.zeros(4)}).save(tmp_path / "nobody.npz")
    with pytest.raises(InputError, match="its embedding is all zeros; embed the photo again"):
        Face.load(tmp_path / "nobody.npz")
    with pytest.raises(InputError, match=r"det_score is 7\.0: expected 0 to 1"):
        Face(**one, det_score=7)
    with pytest.raises(InputError, match="complex"):
        Face(**one | {"embedding": np.ones(4, complex)})
    face = Face(**one)
    assert Face.mean(face).embedding.tolist() == [1] * 4
    for wrong in ([None], ["a.npz"], [face, 5]):
        with pytest.raises(InputError, match="among the faces: expected Faces"):
            Face.mean(wrong)


def test_mask_is_the_box_within_the_photo():
    face = Face(np.ones(4), KPS, image_size=(40, 60), bbox=np.array([-5.0, 10.2, 20.0, 29.6]))
    mask = face.mask()
    assert mask.shape == (40, 60) and set(np.unique(mask)) == {0, 255}
    assert (mask[10:30, :20] == 255).all() and (mask == 255).sum() == 20 * 20
    grown = face.mask(1.5)
    assert (grown[5:34, :26] == 255).all() and (grown == 255).sum() == 29 * 26
    assert (face.mask(100) == 255).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bbox": None}, "has no mask: analyze its photo"),
        ({"image_size": None}, "has no mask: analyze its photo"),
        ({"bbox": np.array([70.0, 0, 90, 20])}, "no pixel in its photo of 60 x 40 pixels"),
    ],
)
def test_face_without_a_box_in_its_photo_has_no_mask(values, message):
    whole = {"image_size": (40, 60), "bbox": np.array([0.0, 0, 20, 20])} | values
    with pytest.raises(InputError, match=message):
        Face(np.ones(4), KPS, **whole).mask()


def test_similarity_is_the_cosine_of_embeddings():
    first, second = np.random.default_rng(1).normal(size=(2, 512))
    expected = 1 - scipy.spatial.distance.cosine(first, second)
    faces = [Face(embedding=10 * each, kps=KPS) for each in (first, second)]
    assert faces[0].similarity(faces[1]) == pytest.approx(expected, abs=1e-6)
    assert faces[0].similarity(faces[0]) == pytest.approx(1)
    assert faces[0].similarity(Face(embedding=np.zeros(512), kps=KPS)) == 0
