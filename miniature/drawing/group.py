"""Scenes that two or three people share."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from miniature.drawing.scene import STYLE_WORDS, Scene, random_scene
from miniature.drawing.traits import Traits, random_traits

COUNTS = {2: "two people", 3: "three people"}
# Properties that all people of a group share.
SURROUNDINGS = ("background", "wall_color", "light", "style", "variation")
# Largest face height, relative to a person's share of the width. A face's width is 0.7 of its
# height, plus hair.
TALLEST = 1.05
# Largest face height in shorter sides of the picture.
TALLEST_AT_ALL = 0.66


def random_group(
    random: np.random.Generator, count: int, size: tuple[int, int]
) -> list[tuple[Traits, Scene]]:
    """Random people from left to right, in one random scene; faces do not overlap.

    Args:
      count: 2 or 3.
      size: (width, height) of the picture in pixels.
    """
    width, height = size
    shared = {name: getattr(random_scene(random), name) for name in SURROUNDINGS}
    room = 1 / (count + 0.3)
    tallest = min(TALLEST * room * width / min(size), TALLEST_AT_ALL)
    middle = random.uniform(0.44, 0.5)
    people = []
    for place in np.arange(count) - (count - 1) / 2:
        scene = dataclasses.replace(
            random_scene(random),
            center=(
                0.5 + room * (place + random.uniform(-0.08, 0.08)),
                # Shoulders stay below the neighbors' chins.
                middle + random.uniform(-0.12, 0.12) * tallest * min(size) / height,
            ),
            face_height=tallest * random.uniform(0.88, 1),
            **shared,
        )
        people.append((random_traits(random), scene))
    return people


def group_caption(scenes: Sequence[Scene]) -> str:
    """Describes the people, from left to right, and their surroundings."""
    each = "; ".join(scene.who for scene in scenes)
    first = scenes[0]
    return f"{STYLE_WORDS[first.style]} of {COUNTS[len(scenes)]}: {each}; {first.where}"
