"""Scores of the faces in generated images, with drawn squares as faces."""

import dataclasses

import numpy as np
import pytest

from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.face.packs import recognizer_hash
from tests.face.synthetic_pack import keypoints, photo, write_pack
from train.validation.config import ValidationConfig
from train.validation.faces import FaceScores

TOP, LEFT, SIDE = 256, 192, 128
KPS = keypoints(TOP, LEFT, SIDE)
EYES = np.linalg.norm(KPS[0] - KPS[1])


def face(person, *, left=LEFT):
    return photo(640, 640, (TOP, left, SIDE, person))


EXAMPLES = [{"images": face(person), "kps": KPS} for person in (1, 2)]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A judge that is not the face pack's recognizer."""
    folder = tmp_path_factory.mktemp("packs")
    # Random projections to many numbers would agree on the cosine.
    judge = write_pack(folder / "judge", embedding_size=4) / "recogniser.onnx"
    pack = write_pack(folder / "pack")
    return ValidationConfig(dataset="unused", face_pack=str(pack), recognizer=str(judge))


@pytest.fixture(scope="module")
def scores(config):
    return FaceScores(config, EXAMPLES, None)


def score(scores, image, number):
    return scores.score(image[None], [number])[0]


def test_the_photo_itself_is_perfect(scores):
    np.testing.assert_allclose(score(scores, face(1), 0), [1, 0, 1], atol=0.02)


def test_the_cosine_is_the_given_recognizers(config, scores):
    judge = FaceAnalyzer(config.face_pack, recognizer=config.recognizer)
    pack = FaceAnalyzer(config.face_pack)
    cosines = [each.analyze(face(1)).similarity(each.analyze(face(2))) for each in (judge, pack)]
    found = score(scores, face(2), 0)[2]
    assert found == pytest.approx(cosines[0], abs=1e-5)
    assert abs(cosines[1] - cosines[0]) > 0.01


def test_the_keypoint_error_is_in_percent_of_the_eyes(scores):
    # The detector's grid is 32 pixels wide there.
    _, error, _ = score(scores, face(1, left=LEFT + 32), 0)
    assert error == pytest.approx(100 * 32 / EYES, rel=0.02)


def test_an_image_without_a_face_counts(scores):
    nobody = score(scores, np.full((640, 640, 3), 30, np.uint8), 0)
    np.testing.assert_array_equal(nobody, 0)
    whole = score(scores, face(1), 0)
    numbers = scores.summarized(np.stack([whole, nobody]))
    assert numbers["detection_rate"] == 0.5
    assert numbers["face_cosine"] == pytest.approx(whole[2] / 2)
    assert numbers["keypoint_error"] == pytest.approx(whole[1])
    assert np.isnan(scores.summarized(nobody[None])["keypoint_error"])


def test_without_a_recognizer_there_is_no_cosine(config):
    plain = FaceScores(dataclasses.replace(config, recognizer=None), EXAMPLES, None)
    numbers = plain.summarized(plain.score(face(1)[None], [0]))
    assert numbers.keys() == {"detection_rate", "keypoint_error"}


def test_a_judge_that_measured_the_data_is_reported(config, caplog):
    FaceScores(config, EXAMPLES, recognizer_hash(config.recognizer))
    assert "face_cosine will flatter the run" in caplog.text
