"""SVG elements: smooth shapes through points, gradients and groups."""

from collections.abc import Iterable
from xml.etree import ElementTree

import numpy as np

Element = ElementTree.Element


def element(tag: str, *children: Element, **attributes: object) -> Element:
    """An element; `stroke_width=2` becomes `stroke-width="2"`, None is omitted."""
    made = ElementTree.Element(
        tag,
        {
            name.replace("_", "-"): _text(value)
            for name, value in attributes.items()
            if value is not None
        },
    )
    made.extend(children)
    return made


def smooth(points: np.ndarray, *, closed: bool = True) -> str:
    """Path data of the Catmull-Rom curve through points [n, 2]."""
    points = np.asarray(points, float)
    if closed:
        around = np.concatenate([points[-1:], points, points[:2]])
    else:
        around = np.concatenate([points[:1], points, points[-1:]])
    pieces = [f"M{_pair(around[1])}"]
    for before, start, end, after in zip(around, around[1:], around[2:], around[3:], strict=False):
        controls = (start + (end - before) / 6, end - (after - start) / 6, end)
        pieces.append("C" + " ".join(map(_pair, controls)))
    return "".join(pieces) + ("Z" if closed else "")


def straight(points: np.ndarray) -> str:
    """Path data of the polygon through points [n, 2]."""
    return "M" + "L".join(map(_pair, np.asarray(points, float))) + "Z"


def ring(steps: int = 16) -> np.ndarray:
    """Points [steps, 2] of the unit circle, clockwise from the right."""
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def linear_gradient(name: str, start: Iterable, end: Iterable, *stops: tuple) -> Element:
    """A gradient in the picture's pixels; a stop is (offset, color) or (offset, color, alpha)."""
    (x1, y1), (x2, y2) = start, end
    return element(
        "linearGradient",
        *map(_stop, stops),
        id=name,
        gradientUnits="userSpaceOnUse",
        x1=x1,
        y1=y1,
        x2=x2,
        y2=y2,
    )


def radial_gradient(name: str, center: Iterable, radius: float, *stops: tuple) -> Element:
    """Like `linear_gradient`, from a center outward."""
    cx, cy = center
    return element(
        "radialGradient",
        *map(_stop, stops),
        id=name,
        gradientUnits="userSpaceOnUse",
        cx=cx,
        cy=cy,
        r=radius,
    )


def outline(shapes: Iterable[Element], color: str, width: float) -> None:
    """Adds an outline to each opaque path without one, at any depth."""
    for shape in shapes:
        for path in shape.iter("path"):
            fill, opacity = path.get("fill", "none"), float(path.get("fill-opacity", 1))
            if fill != "none" and opacity > 0.85 and path.get("stroke") is None:
                path.set("stroke", color)
                path.set("stroke-width", _text(width))
                path.set("stroke-linejoin", "round")


def rename(shapes: Iterable[Element], ending: str) -> None:
    """Adds `ending` to all names and references, as names must be unique in a document."""
    for shape in shapes:
        for part in shape.iter():
            for attribute, value in part.items():
                if attribute == "id":
                    part.set(attribute, value + ending)
                elif value.startswith("url(#"):
                    part.set(attribute, value.removesuffix(")") + ending + ")")


def _stop(stop: tuple) -> Element:
    offset, color, *alpha = stop
    return element("stop", offset=offset, stop_color=color, stop_opacity=alpha[0] if alpha else 1)


def _pair(point: np.ndarray) -> str:
    return f"{point[0]:.2f},{point[1]:.2f}"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
