"""The face and its features: ears, marks, nose, mouth, eyes, brows, glasses."""

import numpy as np

from miniature.drawing import colors
from miniature.drawing.head import Head, between
from miniature.drawing.pen import disc, line, shape
from miniature.drawing.svg import Element, element, radial_gradient, ring, smooth

INK = colors.rgb("#2a1a1e")
WHITE = np.ones(3)
FRAMES = ["#1d1a20", "#7a4a22", "#b3232f", "#1f5fa8", "#c9a23a"]
SIDES = (-1, 1)


def ears(head: Head) -> list[Element]:
    size = between(0.13, 0.22, head.traits.ears)
    made = []
    for side in SIDES:
        middle = np.array([side * (head.cheek + 0.03), head.eye_y + 0.14])
        outer, inner = middle + size * ring() * [0.62, 1], middle + size * ring() * [0.32, 0.6]
        made.append(shape(head, outer, colors.mix(head.skin, head.shade, 0.25), raised=0))
        made.append(shape(head, inner, head.shade, raised=0, opacity=0.6))
    return made


def face(head: Head) -> list[Element]:
    """The face itself, brighter on the side of the light."""
    toward = {"left": (-0.35, -0.18), "right": (0.35, -0.18)}.get(head.scene.light, (-0.1, -0.24))
    gradient = radial_gradient(
        "skin",
        head.at(toward, raised=0),
        1.5 * head.scale,
        (0, colors.text(colors.lighter(head.skin, 0.12))),
        (0.55, colors.text(head.skin)),
        (1, colors.text(colors.mix(head.skin, head.shade, 0.75))),
    )
    return [gradient, shape(head, head.outline(), "url(#skin)", raised=0)]


def marks(head: Head) -> list[Element]:
    """Blush, freckles, a mole or a scar."""
    traits = head.traits
    made = []
    if traits.marks == "blush" or head.scene.expression == "laugh":
        rosy = colors.mix(head.skin, colors.rgb("#e2485a"), 0.55)
        for side in SIDES:
            cheek = (side * 0.44, head.nose_y - 0.02)
            made.append(disc(head, cheek, (0.15, 0.1), rosy, opacity=0.45))
    if traits.marks == "freckles":
        places = np.random.default_rng(7).uniform(-1, 1, (30, 2)) * [0.46, 0.11]
        for place in places + [0, head.nose_y - 0.09]:  # noqa: RUF005
            made.append(disc(head, place, 0.017, head.shade, opacity=0.8))
    y = head.eye_y + between(0.2, 0.6, traits.mark_place[1])
    # The face is narrower further down.
    x = between(-0.55, 0.55, traits.mark_place[0]) * (1 - 0.5 * traits.mark_place[1])
    if traits.marks == "mole":
        made.append(disc(head, (x, y), 0.045, colors.rgb("#3a1d18")))
    if traits.marks == "scar":
        ends = [[x - 0.05, y - 0.11], [x + 0.05, y + 0.11]]
        made.append(line(head, ends, colors.lighter(head.skin, 0.5), 0.03))
    return made


def lines_of_age(head: Head) -> list[Element]:
    """Wrinkles on the forehead, under the eyes and next to the mouth; none for young people."""
    if head.traits.age < 0.45:
        return []
    opacity = min(1.0, 1.6 * (head.traits.age - 0.3))
    lines = [[[-0.28, y], [0, y - 0.025], [0.28, y]] for y in (-0.52, -0.42)]
    for side in SIDES:
        lines.append(
            [[side * (head.eye_x + x), head.eye_y + 0.17 - abs(x) / 3] for x in (-0.1, 0, 0.1)]
        )
        near_mouth = side * (head.mouth_x + 0.07)
        lines.append(
            [
                [side * 0.15, head.nose_y],
                [near_mouth, head.mouth_y - 0.07],
                [near_mouth + side * 0.01, head.mouth_y + 0.06],
            ]
        )
    return [line(head, points, head.shade, 0.022, opacity=opacity) for points in lines]


def nose(head: Head) -> list[Element]:
    traits, y, eye_y = head.traits, head.nose_y, head.eye_y
    half = between(0.07, 0.14, traits.nose_width) * (1.25 if traits.nose == "broad" else 1)
    bridge = {
        "button": [[0.05, y - 0.1], [0.07, y - 0.04]],
        "straight": [[0.05, eye_y + 0.03], [0.055, y - 0.1], [0.08, y - 0.02]],
        "broad": [[0.07, eye_y + 0.06], [0.08, y - 0.15], [half * 0.95, y - 0.02]],
        "hooked": [[0.03, eye_y], [0.11, eye_y + 0.14], [0.06, y - 0.06], [0.03, y + 0.06]],
    }[traits.nose]  # fmt: skip
    away_from_light = -1 if head.scene.light == "right" else 1
    under = [[-half, y], [-0.6 * half, y + 0.05], [0, y + 0.035], [0.6 * half, y + 0.05], [half, y]]
    bright = colors.text(colors.lighter(head.skin, 0.3))
    tip = head.at((0, y - 0.03), raised=1.25)
    shine = radial_gradient("tip", tip, 0.16 * head.scale, (0, bright, 0.9), (1, bright, 0))
    made = [
        shine,
        shape(head, (0, y - 0.03) + 0.16 * ring(), "url(#tip)", raised=1.25, opacity=0.8),
        line(head, np.array(bridge) * [away_from_light, 1], head.shade, 0.034, raised=1.2),
        line(head, under, head.shade, 0.028, raised=1.2),
    ]
    for side in SIDES:
        wing = np.array([[half, y - 0.06], [1.14 * half, y - 0.005], [0.9 * half, y + 0.03]])
        made.append(line(head, wing * [side, 1], head.shade, 0.022, raised=1.15))
    return made


def mouth(head: Head) -> list[Element]:
    traits, expression = head.traits, head.scene.expression
    width, corner_y = head.mouth_corners()[1]
    fullness = between(0.028, 0.085, traits.lip_fullness)
    natural = colors.mix(head.skin, colors.rgb("#a03a45"), 0.5)
    lips = colors.mix(natural, colors.rgb("#c4183a"), max(0, 2 * traits.lip_color - 1))
    opened = {"laugh": 0.2, "surprised": 0.22, "smile": 0.05}.get(expression, 0.0)
    sag = {"smile": 0.07, "laugh": 0.05, "sad": -0.06}.get(expression, 0.0)
    x = np.linspace(-1, 1, 9)
    bow = 1 - x**2
    middle = corner_y + sag * bow
    peaks = np.exp(-(((np.abs(x) - 0.25) / 0.18) ** 2))
    top = middle - fullness * bow * (0.75 + 0.35 * peaks) - 0.15 * opened * bow
    bottom = middle + (opened + 1.15 * fullness) * bow**0.8

    def within(upper: np.ndarray, lower: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Outline of the area between two curves from corner to corner."""
        there, back = (np.stack([share * width * x, y], axis=1) for y in (upper, lower))
        return np.concatenate([there, back[-2:0:-1]])

    made = [shape(head, within(top, bottom), lips)]
    if not opened:
        crease = np.stack([width * x, middle], axis=1)
        return [*made, line(head, crease, colors.darker(lips, 0.5), 0.022)]
    upper = middle + 0.1 * fullness * bow
    made.append(shape(head, within(upper, middle + opened * bow**0.8, 0.92), colors.rgb("#5e1420")))
    if expression != "surprised":
        teeth = within(upper, upper + 0.45 * opened * bow**0.5, 0.92)
        made.append(shape(head, teeth, colors.rgb("#fdf9f0")))
    return made


def eyes(head: Head) -> list[Element]:
    return [part for side in SIDES for part in _eye(head, side)]


def _eye(head: Head, side: int) -> list[Element]:
    traits, scene = head.traits, head.scene
    half = between(0.115, 0.17, traits.eye_size)
    opened = {"surprised": 1.22, "laugh": 0.66, "smile": 0.9, "sad": 0.86}.get(scene.expression, 1)
    tall = half * between(0.5, 0.88, traits.eye_openness) * opened
    tilt = between(-0.18, 0.28, traits.eye_tilt)
    middle = np.array([side * head.eye_x, head.eye_y])

    def lid(bend: float) -> np.ndarray:
        """A curve from corner to corner, `bend` eye heights above the middle."""
        x = np.linspace(-1, 1, 7)
        y = -bend * tall * (1 - np.abs(x) ** 2.2) - tilt * half * x * side
        return middle + np.stack([x * half, y], axis=1)

    upper, lower = lid(1.0), lid(-0.85)
    opening = np.concatenate([upper, lower[-2:0:-1]])
    iris = middle + np.array(scene.gaze) * [0.28 * half, 0.15 * tall]
    radius = 0.62 * half
    name = f"eye{side + 1}"
    return [
        element("clipPath", element("path", d=smooth(head.at(opening))), id=name),
        shape(head, opening, colors.rgb("#fdfbf7")),
        element(
            "g",
            disc(head, iris, radius, head.iris),
            line(head, iris + radius * ring(), colors.darker(head.iris, 0.5), 0.02, closed=True),
            disc(head, iris, 0.48 * radius, colors.rgb("#120c10")),
            disc(head, iris + radius * np.array([-0.32, -0.4]), 0.24 * radius, WHITE),
            clip_path=f"url(#{name})",
        ),
        line(head, upper, INK, 0.035),
        line(head, lower[1:-1], head.shade, 0.014),
        line(head, lid(1.45)[1:-1], head.shade, 0.016, opacity=0.7),
    ]


def brows(head: Head) -> list[Element]:
    traits, expression = head.traits, head.scene.expression
    raised = {"surprised": 0.09, "sad": 0.03, "laugh": 0.03}.get(expression, 0)
    gap = between(0.19, 0.28, traits.brow_height) + raised
    arch = between(0.0, 0.09, traits.brow_arch)
    # Sad brows rise toward the nose.
    tilt = between(-0.05, 0.05, traits.brow_tilt) + (0.08 if expression == "sad" else 0)
    x = np.linspace(-1, 1, 5)
    made = []
    for side in SIDES:
        y = head.eye_y - gap - arch * (1 - x**2) + tilt * x * side
        points = np.stack([side * head.eye_x + 0.19 * x, y], axis=1)
        thickness = between(0.03, 0.085, traits.brow_thickness)
        made.append(line(head, points, colors.darker(head.hair, 0.35), thickness))
    return made


def glasses(head: Head) -> list[Element]:
    traits = head.traits
    if traits.glasses == "none":
        return []
    color = colors.along(FRAMES, traits.glasses_color)
    half = min(0.21, head.eye_x - 0.045)
    inner, y = head.eye_x * 1.02 - half, head.eye_y
    bridge = [[-inner, y - 0.01], [0, y - 0.05], [inner, y - 0.01]]
    made = [line(head, bridge, color, 0.04, raised=1.15)]
    for side in SIDES:
        rim = ring(20)
        if traits.glasses != "round":
            rim = np.sign(rim) * np.abs(rim) ** 0.5 * [1, 0.78]
        if traits.glasses == "cat eye":
            rim[:, 1] -= 0.35 * np.maximum(0, rim[:, 0] * side)
        lens = np.array([side * head.eye_x * 1.02, y + 0.02]) + half * rim
        temple = [[side * (head.eye_x + half), y - 0.03], [side * head.cheek, y]]
        made += [
            shape(head, lens, WHITE, raised=1.1, opacity=0.14),
            line(head, lens, color, 0.042, raised=1.1, closed=True),
            line(head, temple, color, 0.035),
        ]
    return made
