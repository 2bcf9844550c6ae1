"""Shapes and lines on a head, in the head's units."""

import numpy as np
from numpy.typing import ArrayLike

from miniature.drawing import colors
from miniature.drawing.colors import Color
from miniature.drawing.head import Head
from miniature.drawing.svg import Element, element, ring, smooth


def shape(
    head: Head,
    points: ArrayLike,
    fill: Color | str,
    *,
    raised: float = 1.0,
    opacity: float | None = None,
) -> Element:
    """A filled smooth shape through points [n, 2]; `fill` may name a gradient."""
    color = fill if isinstance(fill, str) else colors.text(fill)
    return element(
        "path", d=smooth(head.at(points, raised=raised)), fill=color, fill_opacity=opacity
    )


def disc(
    head: Head, middle: ArrayLike, radius: ArrayLike, fill: Color, *, opacity: float | None = None
) -> Element:
    """A circle, or an ellipse if `radius` has two values."""
    return shape(head, np.asarray(middle) + np.asarray(radius) * ring(), fill, opacity=opacity)


def line(
    head: Head,
    points: ArrayLike,
    color: Color,
    width: float,
    *,
    raised: float = 1.0,
    opacity: float | None = None,
    closed: bool = False,
) -> Element:
    """A smooth line through points [n, 2]."""
    return element(
        "path",
        d=smooth(head.at(points, raised=raised), closed=closed),
        fill="none",
        stroke=colors.text(color),
        stroke_width=width * head.scale,
        stroke_opacity=opacity,
        stroke_linecap="round",
        stroke_linejoin="round",
    )
