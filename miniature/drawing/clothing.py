"""Neck, shoulders and clothing, in units of half the head's height from the top of the neck."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from miniature.drawing import colors
from miniature.drawing.colors import Color
from miniature.drawing.head import Head
from miniature.drawing.scene import Clothing
from miniature.drawing.svg import Element, element, smooth, straight

NAMED = {
    "red": "#c8282f", "orange": "#ee7f22", "yellow": "#f3cb36", "green": "#2f9150",
    "blue": "#2b62bf", "purple": "#7a3fa8", "pink": "#f08fb4", "white": "#f4f2ee",
    "black": "#26242a", "gray": "#8c9096",
}  # fmt: skip
WHITE, TIE, COAT = colors.rgb("#f7f5f0"), colors.rgb("#8c1f2b"), colors.rgb("#4c4f5c")
COLLAR = 0.3
SIDES = (-1, 1)


class Piece(NamedTuple):
    """A piece of cloth, or a seam if it has a `width`."""

    points: list
    color: Color
    curved: bool = False
    width: float | None = None


def dressed(head: Head) -> list[Element]:
    """The body from the neck down; it does not follow the head's roll."""
    color = colors.rgb(NAMED[head.scene.clothing_color])
    # The neck follows the chin.
    chin = head.at((0, 0.8), raised=0)
    base = np.array([0.75 * chin[0] + 0.25 * head.center[0], head.center[1] + head.scale])
    half = 0.36 + 0.06 * head.traits.jaw
    throat = colors.mix(head.skin, head.shade, 0.55)
    top = (chin - base) / head.scale - (0, 0.3)
    neck = [(top[0] - half, top[1]), (-half, 0.6), (half, 0.6), (top[0] + half, top[1])]
    pieces = [Piece(neck, throat), *_worn(head.scene.clothing, color, half)]
    return [_sewn(piece, base, head.scale) for piece in pieces]


def _sewn(piece: Piece, base: np.ndarray, scale: float) -> Element:
    points, color = base + scale * np.asarray(piece.points, float), colors.text(piece.color)
    if piece.width is None:
        return element("path", d=(smooth if piece.curved else straight)(points), fill=color)
    d = smooth(points, closed=False)
    width = scale * piece.width
    return element(
        "path", d=d, fill="none", stroke=color, stroke_width=width, stroke_linecap="round"
    )


def _torso(color: Color, half: float) -> Piece:
    right = [
        (half + 0.04, COLLAR), (0.9, COLLAR + 0.22), (1.3, COLLAR + 0.55), (1.5, 1.6), (1.6, 4),
    ]  # fmt: skip
    left = [(-x, y) for x, y in right]
    return Piece([*left, *right[::-1], *_neckline(half)], color, curved=True)


def _neckline(half: float) -> list:
    return [(0.5 * half, COLLAR + 0.2), (0, COLLAR + 0.27), (-0.5 * half, COLLAR + 0.2)]


def _worn(kind: Clothing, color: Color, half: float) -> Iterator[Piece]:
    dark, light = colors.darker(color, 0.3), colors.lighter(color, 0.25)
    yield _torso(COAT if kind == "scarf" else color, half)
    if kind == "t-shirt":
        edge = half + 0.02
        hem = [(edge, COLLAR + 0.02), *_neckline(half), (-edge, COLLAR + 0.02)]
        yield Piece(hem, dark, width=0.07)
    elif kind == "shirt":
        for s in SIDES:
            flap = [(1.1 * half, 0.1), (0.03, 0.6), (0.34, 0.82), (0.52, 0.38)]
            yield Piece([(s * x, y) for x, y in flap], light)
        yield Piece([(0, 0.6), (0, 4)], dark, width=0.035)
        for y in (0.75, 1.1, 1.45):
            yield Piece([(0, y), (0, y + 0.001)], light, width=0.12)
    elif kind == "hoodie":
        hood = [
            (half + 0.2, 0.08), (0.75, 0.5), (0.3, 0.8), (0, 0.66), (-0.3, 0.8), (-0.75, 0.5),
            (-half - 0.2, 0.08), (-0.3, 0.5), (0, 0.56), (0.3, 0.5),
        ]  # fmt: skip
        yield Piece(hood, dark, curved=True)
        for s in SIDES:
            yield Piece([(0.16 * s, 0.72), (0.18 * s, 1.25)], WHITE, width=0.045)
    elif kind == "turtleneck":
        edge = half + 0.06
        yield Piece([(-edge, 0), (edge, 0), (edge + 0.06, 0.58), (-edge - 0.06, 0.58)], light)
        yield Piece([(-half, 0.32), (0, 0.36), (half, 0.32)], dark, width=0.03)
    elif kind == "scarf":
        edge = half + 0.22
        end = edge + 0.08
        wrap = [(-edge, 0.1), (0, 0.26), (edge, 0.1), (end, 0.5), (0, 0.76), (-end, 0.5)]
        yield Piece(wrap, color, curved=True)
        yield Piece([(0.1, 0.6), (0.46, 0.56), (0.56, 1.5), (0.2, 1.55)], dark)
        yield Piece([(-edge, 0.32), (0, 0.52), (edge, 0.32)], light, width=0.04)
    else:
        yield Piece([(-0.3, 0.4), (0.3, 0.4), (0, 1.6)], WHITE)
        yield Piece([(-0.07, 0.6), (0.07, 0.6), (0.1, 1.3), (0, 1.45), (-0.1, 1.3)], TIE)
        for s in SIDES:
            lapel = [(half + 0.08, 0.16), (0.02, 1.65), (0.5, 1.15), (0.4, 0.95), (0.62, 0.8)]
            yield Piece([(s * x, y) for x, y in lapel], dark)
