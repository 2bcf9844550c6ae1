"""What differs between two pictures of one person, and the caption that says it."""

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
    """A picture, but for who is in it.

    Attributes:
      center: of the face, in widths and heights of the picture.
      face_height: from chin to crown, in shorter sides of the picture.
      roll, yaw: radians; a positive roll is clockwise, a positive yaw turns to the right.
      gaze: where the eyes look, x and y in [-1, 1].
      variation: seed of what no word names: where trees stand, the paint's grain.
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
        """All of it that words name."""
        return f"{STYLE_WORDS[self.style]} of {self.who}, {self.where}"

    @property
    def who(self) -> str:
        """What words name of the person."""
        worn = f"{_with_article(self.clothing_color)} {self.clothing}"
        return f"{EXPRESSION_WORDS[self.expression]}, wearing {worn}"

    @property
    def where(self) -> str:
        """What words name of the surroundings."""
        background = BACKGROUND_WORDS[self.background]
        return (
            f"{background.format(color=_with_article(self.wall_color))}, {LIGHT_WORDS[self.light]}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framing:
    """How close a single person is drawn; each pair is the range that a scene is drawn from.

    Attributes:
      face_height, x, y: as `Scene` has them; x and y of the face's center.
    """

    face_height: tuple[float, float]
    x: tuple[float, float]
    y: tuple[float, float]


# What the shipped networks learned from: the median face is 52 pixels wide of 128.
BUST = Framing(face_height=(0.5, 0.66), x=(0.38, 0.62), y=(0.44, 0.52))
# Head and collar: the median face is 75 wide. Of the largest the crown is cut off.
CLOSE = Framing(face_height=(0.76, 0.9), x=(0.43, 0.57), y=(0.4, 0.44))


def _with_article(color: ColorName) -> str:
    return f"{'an' if color == 'orange' else 'a'} {color}"


def scene_generator(person: Sequence[int], number: int) -> np.random.Generator:
    """What draws scene 0, 1, ... of a person, whom a generator of the key `person` draws.

    NumPy fills keys up with zeros: [*person, 0] would repeat the numbers that make the person.
    """
    return np.random.default_rng([*person, number + 1])


def random_scene(random: np.random.Generator, framing: Framing = BUST) -> Scene:
    """A scene drawn at random, each property on its own.

    Framings draw as many numbers each: all else of a seed's scene is the same.
    """

    def one_of(choices: object) -> str:
        return str(random.choice(get_args(choices)))

    # The order of these is part of what a seed draws.
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
