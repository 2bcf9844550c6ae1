import re

import numpy as np
import pytest

from instantid_jax import Face
from instantid_jax.face.analysis import FaceAnalyzer
from tests.face import synthetic_pack

# Faces of a photo of 128 x 256 pixels: top, left, side, identity.
LEFT = (20, 20, 52, 1)
RIGHT = (40, 150, 50, 2)


def test_a_folder_of_photos_becomes_a_folder_of_faces(run, photo, pack, tmp_path):
    for name in ("photos/a.png", "photos/deep/b.jpg"):
        photo(name, RIGHT)
    ran = run("embed", "photos", "--output", "faces", "--face-pack", pack)
    assert (ran.status, ran.err, ran.log) == (0, [], [])
    assert ran.out == ["2 of 2 photos written to faces"]
    written = sorted((tmp_path / "faces").rglob("*.*"))
    assert [str(path.relative_to(tmp_path)) for path in written] == [
        "faces/a.npz",
        "faces/deep/b.npz",
    ]


def test_a_face_file_holds_what_insightface_found(run, photo, pack):
    path = photo("a.png", LEFT)
    assert run("embed", path, "--output", "faces", "--face-pack", pack).status == 0
    face, expected = Face.load("faces/a.npz"), FaceAnalyzer(pack).analyze(path)
    assert face.image_size == (128, 256) and face.det_score > 0.5
    for name in ("embedding", "kps", "bbox"):
        np.testing.assert_array_equal(getattr(face, name), getattr(expected, name))
    # To half a step of the detector, which sees the photo enlarged 2.5 times.
    np.testing.assert_allclose(face.kps, synthetic_pack.keypoints(*LEFT[:3]), atol=7)


def test_photos_without_a_face_are_named_and_the_others_written(run, photo, pack, tmp_path):
    photo("photos/a.png", LEFT)
    photo("photos/nobody.png")
    (tmp_path / "photos" / "words.jpg").write_text("not an image")
    ran = run("embed", "photos", "--output", "faces", "--face-pack", pack)
    assert (ran.status, ran.err) == (1, []) and ran.out == ["1 of 3 photos written to faces"]
    assert len(ran.log) == 2
    assert "no face found in photos/nobody.png" in ran.log[0] and "words.jpg is not" in ran.log[1]
    assert [path.name for path in (tmp_path / "faces").iterdir()] == ["a.npz"]


BAD = {
    "nothing there": (["nowhere"], "nowhere: no such file or folder"),
    "no images": (["empty"], "empty holds no images"),
    "no face in any": (["nobodies"], "no photo of nobodies gave a face"),
    "one name for two": (
        ["twins"],
        "twins/a.jpg and twins/a.png would all become faces/a.npz: rename",
    ),
    "output is a file": (["photo.png", "--output", "photo.png"], "photo.png is a file"),
    "no pack": (["photo.png", "--face-pack", "buffalo"], "buffalo not found: .*download"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(run, photo, pack, tmp_path, case):
    (tmp_path / "empty").mkdir()
    photo("nobodies/a.png")
    photo("photo.png", LEFT)
    photo("twins/a.png", LEFT)
    photo("twins/a.jpg", LEFT)
    before = sorted(tmp_path.rglob("*"))
    arguments, message = BAD[case]
    ran = run("embed", "--output", "faces", "--face-pack", pack, *arguments)
    assert ran.status == 2 and len(ran.err) == 1
    assert re.search(f"instantid: error: .*{message}", ran.err[0]), ran.err[0]
    assert sorted(tmp_path.rglob("*")) == before
