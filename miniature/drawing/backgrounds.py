"""Backgrounds."""

from collections.abc import Callable

import numpy as np

from miniature.drawing import colors
from miniature.drawing.clothing import NAMED
from miniature.drawing.scene import Scene
from miniature.drawing.svg import Element, element, linear_gradient, smooth, straight

Draw = Callable[[np.random.Generator], list[Element]]


def background(scene: Scene, width: int, height: int) -> Element:
    """A group that fills the picture, drawn in a square of side 100.

    The square extends beyond the picture, because styles displace pixels at the edges.
    """
    random = np.random.default_rng(scene.variation)
    side = max(width, height)
    if scene.background == "wall":
        drawn = _wall(random, NAMED[scene.wall_color])
    else:
        drawn = _DRAW[scene.background](random)
    grown = 1.1 * side
    shift = f"translate({(width - grown) / 2:.4g} {(height - grown) / 2:.4g})"
    return element("g", *drawn, transform=f"{shift} scale({grown / 100:.6g})")


def _fill(color: str, points: np.ndarray, *, curved: bool = False, opacity=None) -> Element:
    d = smooth(points) if curved else straight(points)
    return element("path", d=d, fill=color, fill_opacity=opacity)


def _circle(x: float, y: float, r: float, color: str, opacity: float | None = None) -> Element:
    return element("circle", cx=x, cy=y, r=r, fill=color, fill_opacity=opacity)


def _box(x: float, y: float, w: float, h: float, color: str, opacity=None) -> Element:
    return element("rect", x=x, y=y, width=w, height=h, fill=color, fill_opacity=opacity)


def _sky(*stops: tuple) -> list[Element]:
    gradient = linear_gradient("sky", (0, 0), (0, 100), *stops)
    return [gradient, _box(-1, -1, 102, 102, "url(#sky)")]


def _ridge(random: np.random.Generator, y: float, rough: float, color: str) -> Element:
    """Hills whose top is at about height `y`."""
    x = np.linspace(-10, 110, 9)
    top = np.stack([x, y + rough * random.uniform(-1, 1, 9)], axis=1)
    return _fill(color, np.concatenate([top, [[112, 120], [-12, 120]]]), curved=True)


def _cloud(random: np.random.Generator, color: str, opacity: float) -> list[Element]:
    x, y = random.uniform(0, 100), random.uniform(6, 34)
    return [
        _circle(x + dx, y + dy, r, color, opacity)
        for dx, dy, r in ((-8, 1, 4.5), (-2, -2, 6.5), (5, -1, 5.5), (10, 1.5, 3.8))
    ]


def _wall(random: np.random.Generator, color: str) -> list[Element]:
    base = colors.rgb(color)
    stops = (
        (0, colors.text(colors.lighter(base, 0.25))),
        (1, colors.text(colors.darker(base, 0.12))),
    )
    made = _sky(*stops)
    if random.random() < 0.5:
        line = colors.text(colors.darker(base, 0.2))
        made += [
            _box(x, -1, 0.5, 102, line, 0.35) for x in np.arange(random.uniform(3, 9), 100, 12.5)
        ]
    return made


def _forest(random: np.random.Generator) -> list[Element]:
    made = _sky((0, "#cfe8d8"), (0.7, "#8fbf8a"), (1, "#4d7f4a"))
    for depth, color in ((0, "#86b285"), (1, "#4f8a55"), (2, "#2a5b39")):
        for x in np.arange(random.uniform(-4, 6), 106, 13 + 3 * depth):
            x, w = x + random.uniform(-3, 3), 5.5 + 2.5 * depth
            top, foot = 24 - 9 * depth + random.uniform(-7, 7), 96
            made.append(_box(x - 1, 60, 2, 40, "#5b4030"))
            for level in range(4):
                y = top + level * (foot - top) / 6
                s = w * (0.55 + 0.28 * level)
                made.append(_fill(color, np.array([[x, y - 4], [x + s, y + 17], [x - s, y + 17]])))
    return [*made, _ridge(random, 92, 2, "#2f5a33")]


def _beach(random: np.random.Generator) -> list[Element]:
    made = _sky((0, "#58b4ec"), (0.5, "#c9ecfa"), (1, "#c9ecfa"))
    made.append(_circle(random.uniform(10, 90), random.uniform(10, 22), 7, "#fff3a8"))
    made += _cloud(random, "#ffffff", 0.85)
    made.append(_box(-1, 48, 102, 30, "#1f8fc4"))
    for y in (52, 57, 63):
        x = np.linspace(-5, 105, 12)
        d = smooth(np.stack([x, y + 0.8 * (-1.0) ** np.arange(12)], axis=1), closed=False)
        made.append(element("path", d=d, fill="none", stroke="#8fd3ee", stroke_width=0.8))
    made.append(_ridge(random, 72, 1.5, "#f2dca4"))
    x = random.choice([6, 94])
    lean = 1 if x < 50 else -1
    trunk = np.array([[x, 80], [x + 4 * lean, 40], [x + 10 * lean, 22]])
    d = smooth(trunk, closed=False)
    made.append(element("path", d=d, fill="none", stroke="#8a6238", stroke_width=2.6))
    for angle in np.linspace(-2.9, 0.1, 6):
        tip = trunk[-1] + 17 * np.array([np.cos(angle), 0.7 * np.sin(angle) + 0.28])
        middle = (trunk[-1] + tip) / 2 + [0, -3.5]
        upper, lower = np.subtract(middle, (0, 1.5)), np.add(middle, (0, 1.8))
        leaf = np.array([trunk[-1], upper, tip, lower])
        made.append(_fill("#2f8a46", leaf, curved=True))
    return made


def _city(random: np.random.Generator) -> list[Element]:
    made = _sky((0, "#a9c3dd"), (0.7, "#e7dcd6"), (1, "#b8b4b6"))
    for color, low in (("#8d9bb0", 18), ("#5f6b82", 34)):
        x = random.uniform(-8, 0)
        while x < 102:
            w, top = random.uniform(11, 18), low + random.uniform(-12, 12)
            made.append(_box(x, top, w - 0.8, 110, color))
            for wy in np.arange(top + 3, 96, 6.5):
                for wx in np.arange(x + 1.8, x + w - 3.5, 4):
                    lit = "#ffe9a3" if random.random() < 0.55 else "#45506a"
                    made.append(_box(wx, wy, 2, 3.2, lit))
            x += w
    return made


def _mountains(random: np.random.Generator) -> list[Element]:
    made = _sky((0, "#7cb7e8"), (0.6, "#dcefF8"), (1, "#dceff8"))
    made += _cloud(random, "#ffffff", 0.8)
    for color, y, count in (("#8795b5", 22, 3), ("#5f6f92", 36, 4)):
        for i in range(count):
            x, top = 100 * (i + random.uniform(0.1, 0.9)) / count, y + random.uniform(-8, 8)
            half = random.uniform(26, 36)
            made.append(_fill(color, np.array([[x, top], [x + half, 84], [x - half, 84]])))
            snow = [[x, top], [x + 0.24 * half, top + 15], [x + 3, top + 11], [x - 3, top + 16],
                    [x - 0.24 * half, top + 15]]  # fmt: skip
            made.append(_fill("#ffffff", np.array(snow)))
    return [*made, _ridge(random, 76, 3, "#6f9f5a"), _ridge(random, 90, 3, "#4f8247")]


def _snow(random: np.random.Generator) -> list[Element]:
    made = _sky((0, "#a8bfd6"), (0.6, "#dfe9f2"), (1, "#ffffff"))
    for x in np.arange(random.uniform(0, 10), 105, 17):
        y = 40 + random.uniform(-5, 5)
        for level in range(3):
            s, t = 4.5 + 2.6 * level, y + 9 * level
            made.append(_fill("#5d8078", np.array([[x, t - 5], [x + s, t + 9], [x - s, t + 9]])))
            made.append(
                _fill("#ffffff", np.array([[x, t - 5], [x + 0.5 * s, t + 2], [x - 0.5 * s, t + 2]]))
            )
    made += [_ridge(random, 68, 3, "#e8f0f7"), _ridge(random, 82, 3, "#ffffff")]
    for x, y, r in zip(*random.uniform(0, 100, (2, 60)), random.uniform(0.6, 1.5, 60), strict=True):
        made.append(_circle(x, y, r, "#ffffff", 0.95))
    return made


def _night(random: np.random.Generator) -> list[Element]:
    made = _sky((0, "#0b1030"), (0.7, "#27306b"), (1, "#3d3a78"))
    for x, y, r in zip(*random.uniform(0, 100, (2, 70)), random.uniform(0.3, 1.0, 70), strict=True):
        made.append(_circle(x, 0.8 * y, r, "#fff8d8", random.uniform(0.6, 1)))
    x, y = random.choice([16, 84]), random.uniform(12, 22)
    made += [_circle(x, y, 7.5, "#fff3c4"), _circle(x + 3.2, y - 1.8, 6.6, "#141a42")]
    return [*made, _ridge(random, 84, 4, "#0d1226")]


def _library(random: np.random.Generator) -> list[Element]:
    made = [_box(-1, -1, 102, 102, "#4a2d1c")]
    covers = ["#8f2f2a", "#2f5d62", "#c08a2e", "#3f4a7a", "#6f7f3f", "#7a4a66", "#d4c3a0"]
    for shelf in range(5):
        x, foot = random.uniform(-3, 0), 18 + 20 * shelf
        while x < 101:
            w, h = random.uniform(2.6, 5), random.uniform(11, 16)
            made.append(_box(x, foot - h, w - 0.3, h, str(random.choice(covers))))
            made.append(_box(x, foot - h + 2, w - 0.3, 0.9, "#e9d9a8", 0.7))
            x += w
        made.append(_box(-1, foot, 102, 2.4, "#7a4c2c"))
    return made


def _sunset(random: np.random.Generator) -> list[Element]:
    made = _sky(
        (0, "#57306f"), (0.35, "#d9516a"), (0.62, "#fca15a"), (0.7, "#ffd98a"), (1, "#ffd98a")
    )
    x = random.uniform(15, 85)
    made += [_circle(x, 62, 15, "#ffe9a8", 0.5), _circle(x, 62, 10, "#fff4cf")]
    for _ in range(3):
        cx, cy = random.uniform(0, 100), random.uniform(12, 44)
        made.append(
            element("ellipse", cx=cx, cy=cy, rx=16, ry=1.8, fill="#f7b09a", fill_opacity=0.8)
        )
    return [*made, _ridge(random, 74, 3, "#7a3c5e"), _ridge(random, 86, 3, "#43233f")]


_DRAW: dict[str, Draw] = {
    "forest": _forest,
    "beach": _beach,
    "city": _city,
    "mountains": _mountains,
    "snow": _snow,
    "night sky": _night,
    "library": _library,
    "sunset": _sunset,
}
