"""Scenes: everything in a picture except the person, and captions."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

Style = Literal["cartoon", "comic", "watercolor", "pencil", "oil", "vintage"]
Background = Literal[
    "forest", "beach", "city", "mountains", "snow", "night sky", "library", "sunset", "wall",
]  # fmt: skip
Expression = Literal["neutral", "smile", "laugh", "sad", "surprised"]
Clothing = Literal["t-shirt", "shirt", "hoodie", "turtleneck", "scarf", "suit"]
ColorName = Literal[
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "gray",
]  # fmt: skip
Light = Literal["even", "left", "right", "warm", "cold"]

STYLE_WORDS = {
    "cartoon": "a cartoon",
    "comic": "a comic book drawing",
    "watercolor": "a watercolor painting",
    "pencil": "a pencil drawing",
    "oil": "an oil painting",
    "vintage": "a vintage photograph",
}
BACKGROUND_WORDS = {
    "forest": "in a forest",
    "beach": "at the beach",
    "city": "in a city",
    "mountains": "in the mountains",
    "snow": "in the snow",
    "night sky": "under a starry night sky",
    "library": "in a library",
    "sunset": "at sunset",
    "wall": "in front of {color} wall",
}
EXPRESSION_WORDS = {
    "neutral": "a calm person",
    "smile": "a smiling person",
    "laugh": "a laughing person",
    "sad": "a sad person",
    "surprised": "a surprised person",
}
LIGHT_WORDS = {
    "even": "even light",
    "left": "light from the left",
    "right": "light from the right",
    "warm": "warm light",
    "cold": "cold light",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture without its person.

    Attributes:
      center: center of the face, in widths and heights of the picture.
      face_height: from chin to crown, in shorter sides of the picture.
      roll, yaw: radians; a positive roll is clockwise, a positive yaw turns to the right.
      gaze: direction of the eyes, x and y in [-1, 1].
      variation: seed of details that the caption does not name, such as positions of trees.
    """

    center: tuple[float, float]
    face_height: float
    roll: float
    yaw: float
    gaze: tuple[float, float]
    expression: Expression
    clothing: Clothing
    clothing_color: ColorName
    background: Background
    wall_color: ColorName
    light: Light
    style: Style
    variation: int

    @property
    def caption(self) -> str:
        """Describes the scene, as far as words can."""
        return f"{STYLE_WORDS[self.style]} of {self.who}, {self.where}"

    @property
    def who(self) -> str:
        """The caption's part about the person."""
        worn = f"{_with_article(self.clothing_color)} {self.clothing}"
        return f"{EXPRESSION_WORDS[self.expression]}, wearing {worn}"

    @property
    def where(self) -> str:
        """The caption's part about the surroundings."""
        background = BACKGROUND_WORDS[self.background]
        return (
            f"{background.format(color=_with_article(self.wall_color))}, {LIGHT_WORDS[self.light]}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framing:
    """Size and position of a single person; each pair is a range of random values.

    Attributes:
      face_height, x, y: as in `Scene`; x and y are the face's center.
    """

    face_height: tuple[float, float]
    x: tuple[float, float]
    y: tuple[float, float]


# The training data of the shipped networks: the median face is 52 of 128 pixels wide.
BUST = Framing(face_height=(0.5, 0.66), x=(0.38, 0.62), y=(0.44, 0.52))
# For wide pictures, in which faces are not always in the middle.
ANYWHERE = Framing(face_height=(0.45, 0.8), x=(0.25, 0.75), y=(0.42, 0.54))
# Head and collar: the median face is 75 pixels wide. The largest faces lose their crown.
CLOSE = Framing(face_height=(0.76, 0.9), x=(0.43, 0.57), y=(0.4, 0.44))


def _with_article(color: ColorName) -> str:
    return f"{'an' if color == 'orange' else 'a'} {color}"


def scene_generator(person: Sequence[int], number: int) -> np.random.Generator:
    """Generator of scene 0, 1, ... of a person, who is drawn with the key `person`.

    NumPy pads keys with zeros, so [*person, 0] would repeat the person's random numbers.
    """
    return np.random.default_rng([*person, number + 1])


def random_scene(random: np.random.Generator, framing: Framing = BUST) -> Scene:
    """A random scene with independent properties.

    All framings use equally many random numbers, so a seed's other properties do not depend on it.
    """

    def one_of(choices: object) -> str:
        return str(random.choice(get_args(choices)))

    # The result of a seed depends on this order.
    face_height = random.uniform(*framing.face_height)
    return Scene(
        center=(random.uniform(*framing.x), random.uniform(*framing.y)),
        face_height=face_height,
        roll=float(np.clip(random.normal(0, 0.1), -0.3, 0.3)),
        yaw=float(np.clip(random.normal(0, 0.18), -0.4, 0.4)),
        gaze=(random.uniform(-1, 1), random.uniform(-0.6, 0.6)),
        expression=one_of(Expression),
        clothing=one_of(Clothing),
        clothing_color=one_of(ColorName),
        background=one_of(Background),
        wall_color=one_of(ColorName),
        light=one_of(Light),
        style=one_of(Style),
        variation=int(random.integers(2**31)),
    )
