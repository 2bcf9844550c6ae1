import hashlib
import logging
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import onnx
import pytest
from insightface.app import FaceAnalysis
from insightface.utils import storage
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.face.face import Face
from instantid_jax.face.packs import LICENSE, PackNotFoundError, recognizer_hash
from tests.face.synthetic_pack import detector, keypoints, photo, recognizer, write_pack

# (top, left, side, identity): on the detector's grid in a 640 x 640 photo.
LARGE, SMALL = (128, 320, 128, 1), (64, 64, 64, 2)


def similarity(a, b):
    a, b = a.embedding, b.embedding
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_a_face_is_found_where_it_is(analyzer):
    face = analyzer.analyze(photo(640, 640, LARGE))
    assert isinstance(face, Face) and face.image_size == (640, 640)
    np.testing.assert_allclose(face.bbox, [320, 128, 448, 256], atol=1e-3)
    np.testing.assert_allclose(face.kps, keypoints(*LARGE[:3]), atol=1e-2)
    assert face.det_score == pytest.approx(1.0, abs=1e-4)
    assert face.embedding.shape == (512,) and 5 < np.linalg.norm(face.embedding) < 50


def test_photos_of_other_sizes_keep_their_own_pixels(analyzer):
    twice = analyzer.analyze(photo(640, 1280, (256, 640, 256, 1)))
    assert twice.image_size == (640, 1280)
    np.testing.assert_allclose(twice.bbox, [640, 256, 896, 512], atol=1e-2)


@pytest.mark.parametrize("image", [photo(640, 640, LARGE), photo(640, 640, SMALL, LARGE)])
def test_the_official_recipe_gives_the_same(analyzer, pack, image):
    # InstantID, infer.py: BGR pixels, one detection size, the largest box's raw embedding.
    app = FaceAnalysis(name=str(pack), providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=0, det_size=(640, 640))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found = app.get(np.ascontiguousarray(image[..., ::-1]))
    area = lambda x: (x["bbox"][2] - x["bbox"][0]) * (x["bbox"][3] - x["bbox"][1])  # noqa: E731
    want = sorted(found, key=area)[-1]
    got = analyzer.analyze(image)
    np.testing.assert_array_equal(got.kps, want["kps"])
    np.testing.assert_array_equal(got.bbox, want["bbox"])
    np.testing.assert_array_equal(got.embedding, want["embedding"])


def test_the_largest_of_several_is_used_and_said(analyzer, caplog):
    with caplog.at_level(logging.WARNING):
        alone = analyzer.analyze(photo(640, 640, LARGE))
        assert not caplog.records
        both = analyzer.analyze(photo(640, 640, SMALL, LARGE))
    assert "2 faces in the image: using the largest" in caplog.text
    np.testing.assert_array_equal(both.embedding, alone.embedding)


def test_all_faces_come_largest_first(analyzer):
    large, small = analyzer.faces(photo(640, 640, SMALL, LARGE))
    np.testing.assert_allclose(large.bbox, [320, 128, 448, 256], atol=1e-3)
    np.testing.assert_allclose(small.bbox, [64, 64, 128, 128], atol=1e-3)


def test_embeddings_tell_identities_apart(analyzer):
    one, again = analyzer.faces(photo(640, 640, (128, 320, 128, 1), (64, 64, 64, 1)))
    other = analyzer.analyze(photo(640, 640, (128, 320, 128, 2)))
    assert similarity(one, again) > 0.95
    assert similarity(one, other) < 0.9


def test_insightface_gets_blue_green_red(analyzer):
    image = photo(640, 640, LARGE)
    with pytest.raises(InputError, match="no face"):
        analyzer.analyze(np.ascontiguousarray(image[..., ::-1]))
    # A crop equal to the whole face, through the recognizer's definition in plain numpy.
    crop = np.asarray(Image.fromarray(image[128:256, 320:448]).resize((112, 112), Image.BOX))
    means = (crop.astype(np.float32) / 127.5 - 1).reshape(7, 16, 7, 16, 3).mean((1, 3))
    weights = onnx.numpy_helper.to_array(recognizer().graph.initializer[0])
    want = means.transpose(2, 0, 1).ravel() @ weights
    got = analyzer.analyze(image).embedding
    assert got @ want / np.linalg.norm(got) / np.linalg.norm(want) > 0.99
    swapped = means[..., ::-1].transpose(2, 0, 1).ravel() @ weights
    assert got @ swapped / np.linalg.norm(got) / np.linalg.norm(swapped) < 0.9


def test_a_face_too_large_for_one_size_is_found_at_a_smaller(pack, analyzer):
    image = photo(640, 640, (128, 128, 256, 3))
    with pytest.raises(InputError, match=r"detection sizes 640\)"):
        FaceAnalyzer(pack, det_sizes=(640,)).analyze(image)
    face = analyzer.analyze(image)
    np.testing.assert_allclose(face.bbox, [128, 128, 384, 384], atol=1e-2)
    np.testing.assert_allclose(face.kps, keypoints(128, 128, 256), atol=2e-2)


def test_no_face_names_the_file_and_what_to_try(analyzer, pack, tmp_path):
    path = tmp_path / "wall.png"
    Image.fromarray(photo(200, 300)).save(path)
    with pytest.raises(InputError, match=r"no face found in .*wall\.png .*640, .*192.*use a photo"):
        analyzer.analyze(path)
    quick = FaceAnalyzer(pack, det_sizes=(192,))
    with pytest.raises(InputError, match="no face found in the image"):
        quick.faces(photo(3, 4))
    with pytest.raises(InputError, match="no face"):
        quick.analyze(photo(1, 4000))


def test_a_rotated_file_gives_what_the_upright_one_gives(analyzer, tmp_path):
    upright = photo(640, 480, LARGE)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter clockwise to see it
    Image.fromarray(upright).save(tmp_path / "upright.png")
    Image.fromarray(np.rot90(upright)).save(tmp_path / "rotated.png", exif=exif)
    want, got = (analyzer.analyze(tmp_path / f"{x}.png") for x in ("upright", "rotated"))
    assert got.image_size == (640, 480)
    np.testing.assert_array_equal(got.kps, want.kps)
    np.testing.assert_array_equal(got.embedding, want.embedding)


class Sideways:
    """Instead of a detector: finds the bright pixel, with keypoints as its color says."""

    static_input_size = None

    def detect(self, bgr, **_):
        (y,), (x,) = np.nonzero(bgr[..., 2] == 255)
        height, width = bgr.shape[:2]
        kps = np.array([[0, 0], [20, 0], [10, 10], [0, 20], [20, 20]], np.float32)
        if width > height:  # It lies, and the detector is less sure.
            kps = kps[:, ::-1]
        score = 0.9 if (x, y) == (3, 5) else 0.6
        return np.array([[x, y, x + 20, y + 20, score]], np.float32), kps[None] + (x, y)


def test_a_photo_on_its_side_is_turned(analyzer, monkeypatch, caplog):
    upright = np.zeros((64, 32, 3), np.uint8)
    upright[5, 3, 0] = 255
    monkeypatch.setattr(analyzer, "_detector", Sideways())
    want = analyzer.analyze(upright)
    assert not caplog.records
    got = analyzer.analyze(np.ascontiguousarray(np.rot90(upright)))
    assert "the image: turned by 90 degrees clockwise for an upright face" in caplog.text
    assert got.image_size == want.image_size == (64, 32)
    np.testing.assert_array_equal(got.kps, want.kps)
    np.testing.assert_array_equal(got.embedding, want.embedding)


def test_faces_say_what_measured_them(analyzer, pack, tmp_path):
    face = analyzer.analyze(photo(640, 640, LARGE))
    file = pack / "recogniser.onnx"
    assert face.face_pack == pack.name
    assert face.recognizer == hashlib.sha256(file.read_bytes()).hexdigest()
    face.save(tmp_path / "me.npz")
    again = Face.load(tmp_path / "me.npz")
    assert (again.face_pack, again.recognizer) == (face.face_pack, face.recognizer)


def test_each_photo_gives_a_face_or_its_error(analyzer, tmp_path):
    Image.fromarray(photo(640, 640, LARGE)).save(tmp_path / "a.png")
    Image.fromarray(photo(64, 64)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_text("not an image")
    paths = sorted(tmp_path.iterdir())
    results = list(analyzer.analyze_each(paths))
    assert [path for path, _ in results] == paths
    face, no_face, no_image = (result for _, result in results)
    assert isinstance(face, Face)
    assert isinstance(no_face, InputError) and "no face found" in str(no_face)
    assert isinstance(no_image, InputError) and "not an image" in str(no_image)


def test_nothing_is_printed(pack, capfd):
    FaceAnalyzer(pack).analyze(photo(640, 640, SMALL, LARGE))
    assert capfd.readouterr() == ("", "")


def test_importing_the_file_imports_neither_package():
    code = (
        "import sys, instantid_jax.face.analysis\n"
        "assert not {'insightface', 'onnxruntime', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("det_sizes", [(), (0,), (100,), (640, -32)])
def test_odd_detection_sizes_are_refused(pack, det_sizes):
    with pytest.raises(InputError, match="multiples of 32"):
        FaceAnalyzer(pack, det_sizes=det_sizes)


def test_unknown_providers_are_refused(pack):
    with pytest.raises(InputError, match=r"no NoSuchProvider here: expected one of .*CPU"):
        FaceAnalyzer(pack, providers=["NoSuchProvider"])


def test_a_detector_of_fixed_size_is_used_at_that_size(tmp_path, caplog):
    write_pack(tmp_path)
    onnx.save(detector(size=320), tmp_path / "detector.onnx")
    with caplog.at_level(logging.WARNING):
        analyzer = FaceAnalyzer(tmp_path)
    assert "only takes 320 x 320" in caplog.text and analyzer.det_sizes == (320,)
    analyzer.analyze(photo(640, 640, (128, 128, 256, 3)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": detector()}, r"holds a\.onnx \(detection\): expected"),
        ({"b": recognizer()}, r"holds b\.onnx \(recognition\): expected"),
        (
            {"a": detector(), "b": recognizer(), "c": recognizer(seed=1)},
            r"b\.onnx \(recognition\), c\.onnx \(recognition\): .* one recognizer",
        ),
        (
            {"a": detector(), "b": detector(), "c": recognizer()},
            r"a\.onnx \(detection\), b\.onnx \(detection\)",
        ),
        (
            {"a": detector(with_keypoints=False), "b": recognizer()},
            r"without keypoints: expected one detector with keypoints",
        ),
        # insightface goes by the input's size alone: 80 is nothing that it knows.
        ({"a": detector(), "b": recognizer(size=80)}, r"b\.onnx \(unknown\)"),
        ({"a": detector(), "b": b"version https://git-lfs"}, r"b\.onnx cannot be used"),
    ],
)
def test_packs_of_other_content_are_refused(tmp_path, files, message):
    for name, model in files.items():
        data = model if isinstance(model, bytes) else model.SerializeToString()
        (tmp_path / f"{name}.onnx").write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        FaceAnalyzer(tmp_path)
    assert "\n" not in str(error.value)


def test_models_of_other_kinds_are_left_alone(tmp_path):
    write_pack(tmp_path)
    onnx.save(recognizer(size=80), tmp_path / "other.onnx")
    FaceAnalyzer(tmp_path).analyze(photo(640, 640, LARGE))


def test_a_manifest_is_refused(tmp_path):
    write_pack(tmp_path)
    (tmp_path / "manifest.json").write_text('{"manifest_version": 2}')
    with pytest.raises(InputError, match="manifest of version 2"):
        FaceAnalyzer(tmp_path)


def test_recognizers_of_other_lengths_are_taken(tmp_path):
    analyzer = FaceAnalyzer(write_pack(tmp_path, embedding_size=64))
    assert analyzer.analyze(photo(640, 640, LARGE)).embedding.shape == (64,)


def test_another_recognizer_replaces_the_packs(pack, tmp_path):
    other = write_pack(tmp_path / "other", seed=1)
    image, file = photo(640, 640, LARGE), other / "recogniser.onnx"
    face = FaceAnalyzer(pack, recognizer=file).analyze(image)
    np.testing.assert_array_equal(face.embedding, FaceAnalyzer(other).analyze(image).embedding)
    assert face.recognizer == recognizer_hash(file)


@pytest.mark.parametrize(
    ("name", "message"),
    [("detector.onnx", "is not a recognizer"), ("missing.onnx", "no such file")],
)
def test_other_files_are_refused_as_recognizers(pack, name, message):
    with pytest.raises(InputError, match=message) as error:
        FaceAnalyzer(pack, recognizer=pack / name)
    assert "\n" not in str(error.value)


@pytest.fixture
def downloads(monkeypatch, tmp_path_factory):
    """Stands in for the server: a list of the URLs fetched, each answered with a nested zip."""
    source = write_pack(tmp_path_factory.mktemp("served"))
    urls = []

    def download_file(url, path=None, overwrite=False, sha1_hash=None):
        print("Downloading", path, "from", url)
        urls.append(url)
        storage.os.makedirs(storage.os.path.dirname(path), exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for file in source.iterdir():
                archive.write(file, f"antelopev2/{file.name}")

    monkeypatch.setattr(storage, "download_file", download_file)
    return urls


def test_nothing_is_downloaded_without_permission(downloads, tmp_path):
    with pytest.raises(PackNotFoundError, match="download-face-pack"):
        FaceAnalyzer("antelopev2", root=tmp_path)
    assert not downloads and not list(tmp_path.iterdir())


def test_a_download_logs_the_license_and_happens_once(downloads, tmp_path, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        FaceAnalyzer("antelopev2", root=tmp_path, download=True)
    assert LICENSE in caplog.text and "non-commercial research only" in LICENSE
    assert len(downloads) == 1 and downloads[0].endswith("/antelopev2.zip")
    assert capfd.readouterr().out == ""
    # The archive and the scratch folder are gone.
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["antelopev2"]
    FaceAnalyzer("antelopev2", root=tmp_path, download=True)
    FaceAnalyzer("antelopev2", root=tmp_path)
    assert len(downloads) == 1


def test_a_failed_download_leaves_nothing(monkeypatch, tmp_path):
    def fail(url, path=None, overwrite=False, sha1_hash=None):
        storage.os.makedirs(storage.os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
        raise RuntimeError("Failed downloading url " + url)

    monkeypatch.setattr(storage, "download_file", fail)
    with pytest.raises(InputError, match=r"could not be downloaded .*download it by hand"):
        FaceAnalyzer("antelopev2", root=tmp_path, download=True)
    assert not list((tmp_path / "models").iterdir())


def test_a_path_is_not_downloaded(downloads, tmp_path):
    with pytest.raises(InputError, match="a path cannot be downloaded"):
        FaceAnalyzer(tmp_path / "no" / "antelopev2", root=tmp_path, download=True)
    assert not downloads


def test_another_provider_than_requested_is_refused(pack, monkeypatch):
    """The provider is built in and does not start; onnxruntime falls back silently."""
    import onnxruntime

    asked, running = onnxruntime.get_available_providers()[0], ["other", "another"]
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: running)
    with pytest.raises(InputError, match=f"could not start {asked} and fell back to other"):
        FaceAnalyzer(pack, providers=(asked,))
