"""The drawn portraits on which the base model is trained."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from miniature.chunks import drawn_in_chunks
from miniature.drawing.scene import Scene, random_scene
from miniature.drawing.traits import Traits, random_traits
from miniature.portraits import draw

CHUNK = 50


class Pictures(NamedTuple):
    """N portraits of different people.

    Attributes:
      pixels: uint8 [N, 128, 128, 3].
      captions: [N] strings.
      bboxes: float32 [N, 4], left, top, right and bottom of the face in pixels.
    """

    pixels: np.ndarray
    captions: np.ndarray
    bboxes: np.ndarray


def drawn_pictures(folder: Path, count: int, seed: int, processes: int) -> Pictures:
    """Portraits of a seed; draws those missing in `folder`.

    Args:
      count: a multiple of 50.
    """
    draw_chunk = functools.partial(_draw_chunk, seed=seed)
    return Pictures(**drawn_in_chunks(folder, draw_chunk, count, CHUNK, processes))


def shown(seed: int, number: int) -> tuple[Traits, Scene]:
    """Person and scene of picture `number` of a seed."""
    random = np.random.default_rng([seed, number])
    return random_traits(random), random_scene(random)


def _draw_chunk(chunk: int, *, seed: int) -> dict[str, np.ndarray]:
    numbers = range(CHUNK * chunk, CHUNK * (chunk + 1))
    portraits = [draw(*shown(seed, number)) for number in numbers]
    return {
        "pixels": np.stack([np.asarray(p.image) for p in portraits]),
        "captions": np.array([p.caption for p in portraits], "U160"),
        "bboxes": np.stack([p.bbox for p in portraits]),
    }
