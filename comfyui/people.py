"""One person from several photos."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face

COMBINE = ("average", "norm average")


def combine(faces: Sequence[Face], how: str) -> Face:
    """Averages the embeddings of one person's faces; the rest comes from the first.

    Args:
      how: "average" as they are, or "norm average" with equal lengths, so that each counts the
        same. The result of that has their mean length, because InstantID takes raw embeddings.
    Raises:
      InputError: for another `how`, no faces, or faces that different recognizers measured.
    """
    if how not in COMBINE:
        raise InputError(f"combine_embeds={how!r}: expected one of {', '.join(COMBINE)}")
    person = Face.mean(faces)
    if how == "average":
        return person
    lengths = np.array([np.linalg.norm(face.embedding) for face in faces])
    units = [face.embedding / length for face, length in zip(faces, lengths, strict=True)]
    direction = np.mean(units, axis=0)
    scale = lengths.mean() / np.linalg.norm(direction)
    return dataclasses.replace(person, embedding=direction * scale)
