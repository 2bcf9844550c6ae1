import numpy as np
import pytest

from miniature.evaluation.named import BACKGROUNDS, STYLES
from miniature.evaluation.scores import Faces, caption_accuracy, keypoint_error

ASKED = np.random.default_rng(0).uniform(20, 100, (3, 5, 2)).astype(np.float32)


def test_keypoint_error_of_found_faces_in_picture_widths():
    kps = ASKED + np.array([3.0, 4.0], np.float32)
    kps[1] = 0
    faces = Faces(np.array([True, False, True]), np.zeros((3, 4)), kps)
    assert keypoint_error(faces, ASKED, 100) == pytest.approx(0.05)
    assert np.isnan(keypoint_error(faces._replace(found=np.zeros(3, bool)), ASKED, 100))


def test_caption_accuracy_requires_style_and_background():
    words = "a comic book drawing of a sad person, wearing a red hoodie, in the snow, even light"
    comic, snow = STYLES.index("comic"), BACKGROUNDS.index("snow")
    answers = np.array([[comic, snow], [comic, snow + 1], [comic + 1, snow], [comic, snow]])
    assert caption_accuracy(answers, [words] * 4) == 0.5
