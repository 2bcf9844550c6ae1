"""Colors as RGB arrays in [0, 1], and their SVG notation."""

import numpy as np

Color = np.ndarray


def rgb(text: str) -> Color:
    """Parses "#rrggbb"."""
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def text(color: Color) -> str:
    """Formats as "#rrggbb"."""
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in np.clip(color, 0, 1))


def mix(one: Color, other: Color, share: float) -> Color:
    """Interpolates, with a weight of `share` for the other color."""
    return (1 - share) * np.asarray(one) + share * np.asarray(other)


def darker(color: Color, by: float) -> Color:
    """Mixes with a warm black."""
    return mix(color, np.array([0.10, 0.04, 0.06]), by)


def lighter(color: Color, by: float) -> Color:
    return mix(color, np.ones(3), by)


def along(palette: list[str], place: float) -> Color:
    """Interpolates a palette at `place` in [0, 1]."""
    at = place * (len(palette) - 1)
    low = min(int(at), len(palette) - 2)
    return mix(rgb(palette[low]), rgb(palette[low + 1]), at - low)
