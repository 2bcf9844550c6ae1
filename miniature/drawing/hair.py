"""Hair behind and in front of the face, and beards."""

import numpy as np

from miniature.drawing import colors
from miniature.drawing.head import Head, between
from miniature.drawing.pen import line, shape
from miniature.drawing.svg import Element, ring

SIDES = (-1, 1)
# Lower end of hair that hangs down next to the face.
HANGING = {"bob": 0.72, "fringe": 0.62, "long": 1.5, "waves": 1.4}
# Shapes of the hairline: see `_cap`.
HAIRLINES = {
    "side part": {"lean": 0.16, "peak": 0.42},
    "fringe": {"fringe": 0.22},
    "long": {"peak": -0.25},
    "waves": {"lean": 0.1, "peak": -0.3},
    "bob": {"lean": 0.12, "peak": 0.3},
}


def behind(head: Head) -> list[Element]:
    """Hair behind face and shoulders."""
    hair, volume = head.traits.hair, _volume(head)
    dark = colors.darker(head.hair, 0.3)
    if hair == "afro":
        bumps = 1 + 0.03 * np.cos(np.pi * np.arange(36))[:, None]
        ball = (0, -0.42) + (0.98 + 1.6 * volume) * bumps * ring(36) * [0.98, 0.9]
        return [shape(head, ball, dark, raised=0)]
    if hair == "bun":
        y = -1.22 - volume
        outer, inner = (0, y) + 0.3 * ring(), (0.03, y - 0.03) + 0.22 * ring()
        return [shape(head, outer, dark, raised=0), shape(head, inner, head.hair, raised=0)]
    if hair == "ponytail":
        tail = [
            [0.55, -0.85], [0.95, -0.72], [1.12, -0.2], [1.02, 0.5], [1.12, 0.85], [0.86, 0.6],
            [0.82, 0.0], [0.72, -0.4],
        ]  # fmt: skip
        return [shape(head, np.array(tail) * [1, 1 + volume], dark, raised=0)]
    if hair in HANGING:
        return [shape(head, _curtain(head, HANGING[hair], hair == "waves"), dark, raised=0)]
    return []


def before(head: Head) -> list[Element]:
    """Hair on the forehead and next to the face."""
    hair, volume, line_y = head.traits.hair, _volume(head), _hairline(head)
    if hair == "bald":
        return []
    if hair == "buzz":
        cap = _cap(head, 0.02, line_y - 0.08)
        return [shape(head, cap, head.hair, raised=0.4, opacity=0.82)]
    if hair == "receding":
        return [shape(head, _cap(head, 0.03 + 0.3 * volume, -0.98, peak=0), head.hair, raised=0.4)]
    if hair == "mohawk":
        return _mohawk(head, volume, line_y)
    if hair in ("curls", "afro"):
        return _curls(head, volume, line_y)
    cap = _cap(head, volume, line_y, **HAIRLINES.get(hair, {}))
    made = [shape(head, cap, head.hair, raised=0.4)]
    if hair == "quiff":
        up = -1.1 - volume
        swoop = [
            [-0.62, -0.72], [-0.55, up], [-0.1, up - 0.24], [0.45, up - 0.26], [0.72, up],
            [0.56, -0.82], [0.2, line_y - 0.02], [-0.3, line_y - 0.02],
        ]  # fmt: skip
        made.append(shape(head, swoop, head.hair, raised=0.4))
    if hair in HANGING:
        made += _sides(head, volume, HANGING[hair])
    return [*made, *_strands(head, volume, line_y)]


def beard(head: Head) -> list[Element]:
    kind, color = head.traits.beard, colors.darker(head.hair, 0.15)
    x, y, top = head.mouth_x, head.mouth_y, head.nose_y + 0.075
    moustache = [
        [-1.15 * x, y], [-0.9 * x, y - 0.1], [-0.05, top], [0.05, top], [0.9 * x, y - 0.1],
        [1.15 * x, y], [0, y - 0.045],
    ]  # fmt: skip
    if kind in ("moustache", "goatee"):
        made = [shape(head, moustache, color)]
        if kind == "goatee":
            chin = [
                [-0.2, y + 0.13], [0, y + 0.11], [0.2, y + 0.13], [0.2, 0.92 * head.chin],
                [0, 1.07 * head.chin], [-0.2, 0.92 * head.chin],
            ]  # fmt: skip
            made.append(shape(head, chin, color, raised=0.9))
        return made
    if kind == "none":
        return []
    jaw = head.outline(0.025)[4:12]
    ear = 0.98 * head.cheek
    upper = [
        [-0.86 * head.cheek, 0.28], [-1.5 * x, y - 0.12], [-0.07, top], [0.07, top],
        [1.5 * x, y - 0.12], [0.86 * head.cheek, 0.28],
    ]  # fmt: skip
    around = np.concatenate([[[ear, 0.2]], jaw, [[-ear, 0.2]], upper])
    return [shape(head, around, color, raised=0.7, opacity=0.32 if kind == "stubble" else None)]


def _volume(head: Head) -> float:
    return between(0.05, 0.2, head.traits.hair_volume)


def _hairline(head: Head) -> float:
    return between(-0.74, -0.52, head.traits.hairline)


def _cap(
    head: Head,
    volume: float,
    line_y: float,
    *,
    lean: float = 0.0,
    peak: float = 0.1,
    fringe: float | None = None,
) -> np.ndarray:
    """Outline of the hair from ear to ear over the crown, and back along the hairline.

    Args:
      line_y: height of the hairline.
      lean: how much higher the hairline is on the left.
      peak: how much higher the hairline is in the middle.
      fringe: length of a straight fringe below the hairline; replaces `lean` and `peak`.
    """
    w, up, ear = head.temple, 1 + volume, head.eye_y + 0.05
    side = w + 0.03 + 0.4 * volume
    over = [
        [1.02 * w * up, -0.4], [0.8 * w * up, -0.82 * up], [0.42 * w * up, -1.02 * up],
    ]  # fmt: skip
    right = [[side, ear], *over]
    left = [[-x, y] for x, y in right]
    outer = [*left, [0, -1.08 * up], *right[::-1]]
    if fringe is not None:
        low = line_y + fringe
        half = [[0.86 * w, -0.1], [0.72 * w, low], [0.25, low + 0.02]]
        inner = [*half, *([-x, y] for x, y in half[::-1])]
    else:
        inner = [
            [0.9 * w, ear - 0.18], [0.8 * w, line_y + 0.22], [0.5 * w, line_y + 0.05 + 0.3 * lean],
            [0.05, line_y - 0.25 * peak], [-0.45 * w, line_y + 0.03 - 0.5 * lean],
            [-0.8 * w, line_y + 0.22], [-0.9 * w, ear - 0.18],
        ]  # fmt: skip
    return np.array(outer + inner)


def _curtain(head: Head, low: float, wavy: bool) -> np.ndarray:
    """Outline of hair that hangs behind the face down to `low`."""
    volume = _volume(head)
    half = head.cheek + 0.1 + 1.2 * volume
    sway = 0.055 * np.sin(np.arange(9) * np.pi / 1.5) * wavy
    flare = np.linspace(0, 0.1 if low > 1 else -0.04, 9)
    right = np.stack([half + flare + sway, np.linspace(-0.5, low, 9)], axis=1)
    under = [[0.4 * half, low + 0.06], [-0.4 * half, low + 0.06]]
    top = -1.02 - volume
    crown = [[-0.62 * half, top], [0, top - 0.1], [0.62 * half, top]]
    return np.concatenate([right, under, right[::-1] * [-1, 1], crown])


def _sides(head: Head, volume: float, low: float) -> list[Element]:
    """Hair that hangs in front of the ears."""
    w, out = head.cheek, head.cheek + volume
    lock = np.array(
        [
            [0.72 * w, -0.62],
            [0.97 * w, -0.25],
            [0.93 * w, 0.2],
            [0.9 * w, min(low, 0.75)],
            [out + 0.1, min(low, 0.95)],
            [out + 0.12, 0.2],
            [out + 0.06, -0.35],
        ]
    )
    return [shape(head, lock * [side, 1], head.hair, raised=0) for side in SIDES]


def _mohawk(head: Head, volume: float, line_y: float) -> list[Element]:
    top = -1.2 - volume
    crest = [
        [-0.2, line_y + 0.02], [-0.25, -0.95], [-0.27, top], [-0.12, top - 0.22], [0, top - 0.14],
        [0.12, top - 0.25], [0.27, top], [0.25, -0.95], [0.2, line_y + 0.02], [0, line_y - 0.06],
    ]  # fmt: skip
    shaved = _cap(head, 0.015, line_y - 0.06)
    return [
        shape(head, shaved, head.hair, raised=0.4, opacity=0.35),
        shape(head, crest, head.hair, raised=0.5),
    ]


def _curls(head: Head, volume: float, line_y: float) -> list[Element]:
    made = [shape(head, _cap(head, volume, line_y), head.hair, raised=0.3)]
    tones = colors.darker(head.hair, 0.22), head.hair, colors.lighter(head.hair, 0.1)
    for i, (x, y) in enumerate(_cap(head, 0.6 * volume, line_y)):
        if y > head.eye_y - 0.2 and abs(x) < head.cheek:
            continue  # would hang into the eyes
        for shift in (-0.07, 0.07):
            curl = (x + shift, y + 0.6 * shift) + (0.15 + 0.3 * volume) * ring(10)
            made.append(shape(head, curl, tones[i % 3], raised=0.2))
    return made


def _strands(head: Head, volume: float, line_y: float) -> list[Element]:
    """A few shiny strands."""
    light = colors.lighter(head.hair, 0.22)
    made = []
    for x in (-0.5, -0.22, 0.12, 0.42):
        points = [[x, line_y - 0.08], [0.95 * x, -0.86], [0.7 * x, -1.0 - 0.6 * volume]]
        made.append(line(head, points, light, 0.03, raised=0.3, opacity=0.55))
    return made
