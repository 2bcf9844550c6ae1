import json

import numpy as np
import skimage.data
from PIL import Image

from instantid_jax.cli.demo import ASTRONAUT_KEYPOINTS, PROMPT, astronaut
from instantid_jax.untrained import NOTICE
from tests.pipeline.small_model import SIZE


def test_the_demo_shows_photo_keypoints_and_picture(run):
    size = ("--height", SIZE[0], "--width", SIZE[1])
    ran = run("demo", "--output", "out/demo.png", "--num-inference-steps", 2, *size)
    assert (ran.status, ran.err) == (0, [])
    assert ran.out == ["out/demo.png: photo, keypoints, picture"]
    assert "drawn at random" in ran.log[0] and "measured by hand" in ran.log[0]
    assert ran.log[1:] == [NOTICE]
    with Image.open("out/demo.png") as sheet:
        assert sheet.size == (3 * SIZE[1], SIZE[0])
        assert sheet.text["prompt"] == PROMPT
        assert json.loads(sheet.text["instantid"])["num_inference_steps"] == 2
        parts = np.split(np.asarray(sheet), 3, axis=1)
    assert [part.std() > 5 for part in parts] == [True] * 3


def test_the_face_is_the_photos(run):
    face = astronaut()
    assert face.image_size == skimage.data.astronaut().shape[:2]
    np.testing.assert_allclose(face.kps, ASTRONAUT_KEYPOINTS, atol=1e-4)
    left_eye, right_eye, nose, left_mouth, right_mouth = face.kps
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_bad_output_is_refused_before_anything_is_computed(run):
    ran = run("demo", "--output", "demo.jpg")
    assert ran.status == 2 and ran.log == []
    assert ran.err == ["instantid: error: --output demo.jpg: expected a name ending in .png"]
