"""One person from several faces."""

import dataclasses

import numpy as np
import pytest

from comfyui.people import COMBINE, combine
from instantid_jax import Face, InputError
from tests.pipeline import small_model

FACES = [small_model.person(number) for number in range(3)]


def scaled(face: Face, factor: float) -> Face:
    return dataclasses.replace(face, embedding=face.embedding * factor)


def test_average_is_that_of_the_library():
    combined, expected = combine(FACES, "average"), Face.mean(FACES)
    np.testing.assert_array_equal(combined.embedding, expected.embedding)
    np.testing.assert_array_equal(combined.kps, FACES[0].kps)


def test_norm_average_counts_each_photo_the_same():
    combined = combine(FACES, "norm average").embedding.astype(np.float64)
    longer = [scaled(FACES[0], 5), *FACES[1:]]
    again = combine(longer, "norm average").embedding.astype(np.float64)
    cosine = combined @ again / np.linalg.norm(combined) / np.linalg.norm(again)
    assert cosine == pytest.approx(1, abs=1e-6)
    plain = combine(longer, "average").embedding
    assert plain @ combined / np.linalg.norm(plain) / np.linalg.norm(combined) < 0.95


def test_norm_average_has_the_length_of_raw_embeddings():
    for faces in (FACES, [scaled(face, 2) for face in FACES]):
        lengths = [np.linalg.norm(face.embedding) for face in faces]
        combined = combine(faces, "norm average").embedding
        assert np.linalg.norm(combined) == pytest.approx(np.mean(lengths), rel=1e-5)


@pytest.mark.parametrize("how", COMBINE)
def test_one_photo_is_the_person(how):
    np.testing.assert_allclose(combine(FACES[:1], how).embedding, FACES[0].embedding, rtol=1e-5)


def test_other_ways_and_other_recognizers_are_refused():
    with pytest.raises(InputError, match="combine_embeds='concat': expected one of average"):
        combine(FACES, "concat")
    others = [small_model.person(i, recognizer=str(i)) for i in range(2)]
    with pytest.raises(InputError, match="different recognizers"):
        combine(others, "norm average")
