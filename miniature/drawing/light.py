"""Light effects, drawn over the picture."""

from miniature.drawing.scene import Scene
from miniature.drawing.svg import Element, element, linear_gradient

BRIGHT, DARK = "#ffffff", "#14102a"
TINTS = {"warm": "#ffb04a", "cold": "#4f7cff"}


def light(scene: Scene, width: int, height: int) -> list[Element]:
    """Light from a side brightens it and darkens the other; warm and cold light tint all."""
    if scene.light in TINTS:
        return [_over(width, height, TINTS[scene.light], 0.24)]
    if scene.light == "even":
        return []
    near, far = (0, width) if scene.light == "left" else (width, 0)
    middle = 0.42
    stops = (0, BRIGHT, 0.22), (middle, BRIGHT, 0), (middle, DARK, 0), (1, DARK, 0.5)
    shade = linear_gradient("light", (near, 0), (far, 0), *stops)
    return [shade, _over(width, height, "url(#light)")]


def _over(width: int, height: int, fill: str, opacity: float | None = None) -> Element:
    return element("rect", width=width, height=height, fill=fill, fill_opacity=opacity)
