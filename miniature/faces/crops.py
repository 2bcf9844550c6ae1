"""The recognizers' training data: drawn faces, cropped at slightly displaced keypoints."""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from PIL import ImageFilter

from instantid_jax.face.analysis import aligned_crop
from miniature.chunks import drawn_in_chunks
from miniature.drawing.scene import random_scene, scene_generator
from miniature.drawing.traits import Traits, random_traits
from miniature.portraits import draw

SIDE = 112
CHUNK = 100


class Crops(NamedTuple):
    """Crops of people, and their traits.

    Attributes:
      pixels: uint8 [people, pictures, 112, 112, 3], RGB.
      numbers: float32 [people, n], the numeric traits, in [0, 1].
      kinds: int32 [people, k], the categorical traits, as indices into their choices.
    """

    pixels: np.ndarray
    numbers: np.ndarray
    kinds: np.ndarray


NUMBERS = [field.name for field in dataclasses.fields(Traits) if field.type is float]
KINDS = {
    field.name: get_args(field.type)
    for field in dataclasses.fields(Traits)
    if field.type is not float and field.name != "mark_place"
}


def drawn_crops(folder: Path, people: int, pictures: int, seed: int, processes: int) -> Crops:
    """Crops of a seed's people; draws those missing in `folder`.

    Args:
      people: number of people, a multiple of 100.
      pictures: number of pictures per person.
    """
    draw_chunk = functools.partial(_draw_chunk, pictures=pictures, seed=seed)
    # Chunks depend on the number of pictures.
    folder = folder / f"{pictures}-pictures"
    return Crops(**drawn_in_chunks(folder, draw_chunk, people, CHUNK, processes))


def _draw_chunk(chunk: int, *, pictures: int, seed: int) -> dict[str, np.ndarray]:
    pixels = np.empty((CHUNK, pictures, SIDE, SIDE, 3), np.uint8)
    people = []
    for i in range(CHUNK):
        key = [seed, CHUNK * chunk + i]
        traits = random_traits(np.random.default_rng(key))
        people.append(traits)
        for j in range(pictures):
            pixels[i, j] = draw_crop(traits, scene_generator(key, j))
    numbers = [[getattr(t, name) for name in NUMBERS] + list(t.mark_place) for t in people]
    kinds = [[KINDS[name].index(getattr(t, name)) for name in KINDS] for t in people]
    return {
        "pixels": pixels,
        "numbers": np.array(numbers, np.float32),
        "kinds": np.array(kinds, np.int32),
    }


def draw_crop(traits: Traits, random: np.random.Generator) -> np.ndarray:
    """Draws a crop uint8 [112, 112, 3] of a person; blurs some, as generated pictures are."""
    portrait = draw(traits, random_scene(random))
    picture = portrait.image
    if random.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.1)))
    eyes_apart = np.linalg.norm(portrait.kps[1] - portrait.kps[0])
    kps = portrait.kps + random.normal(0, 0.04 * eyes_apart, (5, 2))
    return aligned_crop(np.asarray(picture), kps, SIDE)
