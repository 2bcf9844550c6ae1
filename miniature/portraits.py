"""Draws portraits of people, defined by traits, in scenes; with keypoints and caption."""

import dataclasses
import io
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import resvg_py
from PIL import Image

from miniature.drawing import clothing, features, hair
from miniature.drawing.backgrounds import background
from miniature.drawing.head import Head
from miniature.drawing.light import light
from miniature.drawing.painting import paint
from miniature.drawing.scene import Scene, random_scene
from miniature.drawing.svg import Element, element, outline, rename
from miniature.drawing.traits import Traits, random_traits

SIDE = 128
# Ink colors of the styles with outlines.
INKS = {"comic": "#17111a", "pencil": "#4b4750"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Portrait:
    """A drawn picture of a person.

    Attributes:
      image: RGB; may contain other people, too.
      kps: [5, 2] pixels of `image`: eyes, nose and corners of the mouth, left before right. They
        are those of the drawing; watercolor and oil then move edges by up to 1.3 % of the longer
        side.
      bbox: [4] pixels: left, top, right, bottom of the face.
      traits: the person.
      scene: everything else.
    """

    image: Image.Image
    kps: np.ndarray
    bbox: np.ndarray
    traits: Traits
    scene: Scene

    @property
    def caption(self) -> str:
        """Describes the scene, not the person."""
        return self.scene.caption


def draw_random(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Portrait:
    """Draws the person and scene of a seed; size is (width, height) in pixels."""
    of_person, of_scene = np.random.default_rng([0, seed]), np.random.default_rng([1, seed])
    return draw(random_traits(of_person), random_scene(of_scene), size)


def draw(traits: Traits, scene: Scene, size: tuple[int, int] = (SIDE, SIDE)) -> Portrait:
    """Draws a person in a scene; size is (width, height) in pixels."""
    head = Head(traits, scene, *size)
    return _portrait(head, _painted(_person(head), scene, size))


def draw_group(
    people: Sequence[tuple[Traits, Scene]], size: tuple[int, int] = (SIDE, SIDE)
) -> tuple[Portrait, ...]:
    """Draws several people in one picture, nearer people in front.

    Args:
      people: scenes with the same surroundings, as `random_group` returns them.
      size: (width, height) in pixels.
    Returns:
      a portrait of each person, in the given order, all with the same image.
    """
    heads = [Head(traits, scene, *size) for traits, scene in people]
    drawn: list[Element] = []
    for number, head in sorted(enumerate(heads), key=lambda each: each[1].scale):
        person = _person(head)
        rename(person, f"-{number}")
        drawn += person
    image = _painted(drawn, heads[0].scene, size)
    return tuple(_portrait(head, image) for head in heads)


def draw_deserted(scene: Scene, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Draws the scene without a person."""
    return _painted([], scene, size)


def _portrait(head: Head, image: Image.Image) -> Portrait:
    return Portrait(
        image=image,
        kps=head.keypoints.astype(np.float32),
        bbox=head.box().astype(np.float32),
        traits=head.traits,
        scene=head.scene,
    )


def _person(head: Head) -> list[Element]:
    person = [
        *hair.behind(head),
        *clothing.dressed(head),
        *features.ears(head),
        *features.face(head),
        *features.marks(head),
        *features.lines_of_age(head),
        *hair.beard(head),
        *features.nose(head),
        *features.mouth(head),
        *features.eyes(head),
        *features.brows(head),
        *hair.before(head),
        *features.glasses(head),
    ]
    if head.scene.style in INKS:
        outline(person, INKS[head.scene.style], 0.035 * head.scale)
    return person


def _painted(person: list[Element], scene: Scene, size: tuple[int, int]) -> Image.Image:
    width, height = size
    document = element(
        "svg",
        background(scene, width, height),
        *person,
        *light(scene, width, height),
        xmlns="http://www.w3.org/2000/svg",
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
    )
    text = ElementTree.tostring(document, encoding="unicode")
    png = resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True)
    drawn = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.float32) / 255
    pixels = paint(scene.style, drawn, np.random.default_rng([2, scene.variation]))
    return Image.fromarray((255 * pixels).round().astype(np.uint8))
