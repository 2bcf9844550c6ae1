"""Traits of a person, which are the same in all pictures."""

import dataclasses
from typing import Literal, get_args

import numpy as np

Hair = Literal[
    "bald", "buzz", "side part", "quiff", "curls", "afro", "bob", "fringe", "long", "waves", "bun",
    "mohawk", "ponytail", "receding",
]  # fmt: skip
Beard = Literal["none", "stubble", "moustache", "goatee", "full"]
Glasses = Literal["none", "round", "square", "cat eye"]
Nose = Literal["button", "straight", "broad", "hooked"]
Marks = Literal["none", "mole", "freckles", "scar", "blush"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """An identity. Numbers are in [0, 1], across the natural range.

    Attributes:
      skin: from pale to dark; `undertone` is from rosy to olive.
      hair_color: from black over brown, red and blond to white.
      eye_color: from dark brown over green to blue and gray.
      mark_place: position of a mole or a scar on the face, x and y.
    """

    skin: float
    undertone: float
    face_width: float
    jaw: float
    chin: float
    face_length: float
    ears: float
    hair: Hair
    hair_color: float
    hair_volume: float
    hairline: float
    eye_color: float
    eye_size: float
    eye_openness: float
    eye_spacing: float
    eye_height: float
    eye_tilt: float
    brow_thickness: float
    brow_arch: float
    brow_height: float
    brow_tilt: float
    nose: Nose
    nose_length: float
    nose_width: float
    mouth_width: float
    mouth_height: float
    lip_fullness: float
    lip_color: float
    beard: Beard
    glasses: Glasses
    glasses_color: float
    marks: Marks
    mark_place: tuple[float, float]
    age: float


# Most people wear no glasses and no beard.
_WEIGHTS = {
    Beard: (0.6, 0.1, 0.1, 0.08, 0.12),
    Glasses: (0.64, 0.13, 0.13, 0.1),
    Marks: (0.5, 0.14, 0.14, 0.08, 0.14),
}


def random_traits(random: np.random.Generator) -> Traits:
    """A random person with independent traits."""
    drawn = {}
    for field in dataclasses.fields(Traits):
        if field.type is float:
            drawn[field.name] = float(random.random())
        elif field.name == "mark_place":
            drawn[field.name] = (float(random.random()), float(random.random()))
        else:
            choices = get_args(field.type)
            weights = _WEIGHTS.get(field.type)
            drawn[field.name] = choices[random.choice(len(choices), p=weights)]
    return Traits(**drawn)
