"""The drawn pictures on which the base model is trained, in several formats."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from miniature.chunks import drawn_in_chunks
from miniature.drawing.group import COUNTS, group_caption, random_group
from miniature.drawing.scene import ANYWHERE, BUST, CLOSE, Framing, Scene, random_scene
from miniature.drawing.traits import Traits, random_traits
from miniature.portraits import SIDE, draw, draw_group

CHUNK = 50
# The longest caption of a group has 237 characters.
CAPTION = "U240"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """Contents of the pictures.

    Attributes:
      size: (width, height) in pixels.
      framing: size and position of a person alone.
      groups: every how many pictures two or three people share one; None draws no groups.
    """

    size: tuple[int, int] = (SIDE, SIDE)
    framing: Framing = BUST
    groups: int | None = None


# What the shipped networks were trained on.
PORTRAITS = Mixture()
# The base model's mixtures, and their shares of its pictures in tenths.
FORMATS = (
    (Mixture(framing=CLOSE, groups=8), 5),
    (Mixture(size=(96, 96), framing=CLOSE), 1),
    (Mixture(size=(160, 160), framing=CLOSE, groups=8), 1),
    (Mixture(size=(192, 192), framing=CLOSE, groups=8), 1),
    (Mixture(size=(192, 128), framing=ANYWHERE, groups=2), 1),
    (Mixture(size=(128, 192), framing=CLOSE), 1),
)


class Pictures(NamedTuple):
    """N pictures of different people.

    Attributes:
      pixels: uint8 [N, H, W, 3].
      captions: [N] strings.
      bboxes: float32 [N, F, 4], left, top, right and bottom of the faces in pixels, F the most
        faces in any picture; NaN where a picture has fewer.
    """

    pixels: np.ndarray
    captions: np.ndarray
    bboxes: np.ndarray


def drawn_pictures(
    folder: Path, count: int, seed: int, processes: int, mixture: Mixture = PORTRAITS
) -> Pictures:
    """Pictures of a seed; draws those missing in `folder`.

    Args:
      count: a multiple of 50.
    """
    draw_chunk = functools.partial(_draw_chunk, seed=seed, mixture=mixture)
    return Pictures(**drawn_in_chunks(folder, draw_chunk, count, CHUNK, processes))


def formats(seed: int, count: int) -> list[tuple[Mixture, int, int]]:
    """Each of `FORMATS`, with its own seed and its number of pictures.

    Args:
      seed: the first format's; the others have the next ones.
      count: pictures in all, a multiple of 500.
    """
    tenths = sum(share for _, share in FORMATS)
    return [
        (mixture, seed + i, count * share // tenths) for i, (mixture, share) in enumerate(FORMATS)
    ]


def shown(seed: int, number: int, mixture: Mixture = PORTRAITS) -> Sequence[tuple[Traits, Scene]]:
    """People of picture `number` of a seed, each with the scene."""
    random = np.random.default_rng([seed, number])
    if mixture.groups is not None and number % mixture.groups == 0:
        return random_group(random, int(random.choice(list(COUNTS))), mixture.size)
    return [(random_traits(random), random_scene(random, mixture.framing))]


def _draw_chunk(chunk: int, *, seed: int, mixture: Mixture) -> dict[str, np.ndarray]:
    numbers = range(CHUNK * chunk, CHUNK * (chunk + 1))
    pixels, captions = [], []
    bboxes = np.full((CHUNK, 1 if mixture.groups is None else max(COUNTS), 4), np.nan, np.float32)
    for i, number in enumerate(numbers):
        people = shown(seed, number, mixture)
        scenes = [scene for _, scene in people]
        size = mixture.size
        portraits = [draw(*people[0], size)] if len(people) == 1 else draw_group(people, size)
        pixels.append(np.asarray(portraits[0].image))
        captions.append(scenes[0].caption if len(people) == 1 else group_caption(scenes))
        bboxes[i, : len(people)] = [portrait.bbox for portrait in portraits]
    return {"pixels": np.stack(pixels), "captions": np.array(captions, CAPTION), "bboxes": bboxes}
