"""Scenes that two or three people share."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from miniature.drawing.scene import STYLE_WORDS, Scene, random_scene
from miniature.drawing.traits import Traits, random_traits

COUNTS = {2: "two people", 3: "three people"}
# What all have in common.
SURROUNDINGS = ("background", "wall_color", "light", "style", "variation")
# Of the room that each has across: how tall the face may be. A face is 0.7 of its height wide,
# and hair comes on top of that.
TALLEST = 1.05
# And in shorter sides of the picture.
TALLEST_AT_ALL = 0.66


def random_group(
    random: np.random.Generator, count: int, size: tuple[int, int]
) -> list[tuple[Traits, Scene]]:
    """People from left to right, in one scene drawn at random; no face covers another.

    Args:
      count: 2 or 3.
      size: (width, height) in pixels of the picture that they are to be drawn in.
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
    """All that words name of people, from left to right, and of what surrounds them."""
    each = "; ".join(scene.who for scene in scenes)
    first = scenes[0]
    return f"{STYLE_WORDS[first.style]} of {COUNTS[len(scenes)]}: {each}; {first.where}"
