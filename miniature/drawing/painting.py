"""The styles: filters that turn a drawing into a comic, painting, pencil drawing or old photo.

A picture is float32 [H, W, 3] in [0, 1]. All lengths are relative to its longer side.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from miniature.drawing import colors
from miniature.drawing.scene import Style

Picture = np.ndarray
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def paint(style: Style, picture: Picture, random: np.random.Generator) -> Picture:
    """Applies a style to a picture."""
    return np.clip(_STYLES[style](picture, random), 0, 1)


def _cartoon(picture: Picture, random: np.random.Generator) -> Picture:
    return picture


def _comic(picture: Picture, random: np.random.Generator) -> Picture:
    """Strong colors under a halftone screen."""
    y, x = _places(picture)
    screen = np.cos(2 * np.pi * 42 * (x + y)) * np.cos(2 * np.pi * 42 * (x - y))
    return _saturated(picture, 1.45) * (1 - 0.16 * (screen > 0.3))[..., None]


def _watercolor(picture: Picture, random: np.random.Generator) -> Picture:
    """Bleeding edges, uneven pigment, paper at the margin."""
    shape = picture.shape[:2]
    run, fray = (
        [depth * (_noise(random, shape, cells) - 0.5) for _ in "yx"]
        for depth, cells in ((0.012, 12), (0.014, 50))
    )
    bled = _moved(picture, run[0] + fray[0], run[1] + fray[1])
    pools = (
        0.3 * np.clip(_noise(random, shape, 6) + _noise(random, shape, 12) - 0.9, 0, 0.9)[..., None]
    )
    paper = 1 - 0.07 * _noise(random, shape, 90)[..., None]
    washed = colors.mix(_saturated(bled, 1.1), np.ones(3), 0.14 + pools)
    return _framed(washed, colors.rgb("#fbf8f0"), 0.62) * paper


def _pencil(picture: Picture, random: np.random.Generator) -> Picture:
    """Pale colors on paper, hatched in dark areas."""
    y, x = _places(picture)
    pale = 0.24 + 0.76 * _saturated(picture, 0.45)
    hatch = np.clip(np.cos(2 * np.pi * 44 * (0.8 * x + 0.6 * y)), 0, 1)
    dark = np.clip(0.95 - pale @ LUMINANCE, 0, 1)
    grain = _noise(random, picture.shape[:2], 100)
    stroked = pale - (0.32 * hatch * dark + 0.16 * (grain - 0.5))[..., None]
    return _framed(stroked, colors.rgb("#faf8f3"), 0.68)


def _oil(picture: Picture, random: np.random.Generator) -> Picture:
    """Brush strokes that drag the color along, each with highlights and shadows."""
    shape = picture.shape[:2]
    dabs = _noise(random, shape, (56, 34)) - 0.5
    dragged = _moved(picture, 0.012 * dabs, 0.024 * (_noise(random, shape, (34, 56)) - 0.5))
    return _saturated(dragged, 1.35) * (1 + 0.26 * dabs)[..., None]


def _vintage(picture: Picture, random: np.random.Generator) -> Picture:
    """Soft, brown, grainy, dark at the corners."""
    blurred = Image.fromarray((255 * picture).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(max(picture.shape) / 300)
    )
    soft = np.asarray(blurred, np.float32) / 255
    sepia = colors.mix(
        soft, (soft @ LUMINANCE)[..., None] * [1.12, 0.96, 0.74] + [0.05, 0.02, 0], 0.85
    )
    grain = 0.1 * (_noise(random, picture.shape[:2], 110) - 0.5)
    return _framed(sepia + grain[..., None], colors.rgb("#1c0f08"), 0.66)


_STYLES: dict[Style, Callable[[Picture, np.random.Generator], Picture]] = {
    "cartoon": _cartoon,
    "comic": _comic,
    "watercolor": _watercolor,
    "pencil": _pencil,
    "oil": _oil,
    "vintage": _vintage,
}


def _places(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """y and x of each pixel, in units of the longer side."""
    height, width = picture.shape[:2]
    return np.mgrid[:height, :width].astype(np.float32) / max(height, width)


def _noise(
    random: np.random.Generator, shape: tuple[int, int], cells: float | tuple[float, float]
) -> np.ndarray:
    """Smooth noise in [0, 1] with `cells` bumps per longer side, (down, across)."""
    down, across = np.broadcast_to(cells, 2)
    height, width = shape
    size = (2 + round(across * width / max(shape)), 2 + round(down * height / max(shape)))
    coarse = Image.fromarray(random.random(size[::-1], np.float32))
    return np.clip(np.asarray(coarse.resize((width, height), Image.BICUBIC)), 0, 1)


def _moved(picture: Picture, down: np.ndarray, across: np.ndarray) -> Picture:
    """Displaces pixels by `down` and `across`, in units of the longer side."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32) + max(height, width) * np.stack(
        [down, across]
    )
    y, x = np.clip(y, 0, height - 1.001), np.clip(x, 0, width - 1.001)
    top, left = y.astype(int), x.astype(int)
    fy, fx = (y - top)[..., None], (x - left)[..., None]
    upper = colors.mix(picture[top, left], picture[top, left + 1], fx)
    lower = colors.mix(picture[top + 1, left], picture[top + 1, left + 1], fx)
    return colors.mix(upper, lower, fy)


def _saturated(picture: Picture, by: float) -> Picture:
    return colors.mix((picture @ LUMINANCE)[..., None], picture, by)


def _framed(picture: Picture, color: np.ndarray, start: float) -> Picture:
    """Fades to a color toward the corners, starting at `start` half diagonals."""
    y, x = _places(picture)
    away = np.hypot(y - y.max() / 2, x - x.max() / 2) / np.hypot(y.max() / 2, x.max() / 2)
    return colors.mix(
        picture, color, np.clip((away - start) / (1.05 - start), 0, 1)[..., None] ** 1.3
    )
