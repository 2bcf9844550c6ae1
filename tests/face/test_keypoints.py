import math

import cv2
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.face.keypoints import draw_keypoints

PORTRAIT = np.array(
    [[210.9, 180.2], [331.4, 172.7], [280.6, 251.8], [225.3, 322.9], [318.7, 315.5]], np.float32
)
RGB = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]])


def random_kps(seed, height, width):
    """Points in the frame and up to half a frame outside it."""
    points = np.random.default_rng(seed).uniform(-0.5, 1.5, (5, 2)) * [width, height]
    return points.astype(np.float32)


def described(height, width, kps):
    """The image from its description in numpy, and where the description is certain.

    Within 1.5 pixels of an outline rasterisers may differ (OpenCV rounds an ellipse's corners to
    whole pixels and fills its edge too), so those pixels stay uncertain until something covers
    them.
    """
    y, x = np.mgrid[:height, :width].astype(float)
    image = np.zeros((height, width, 3), np.uint8)
    certain = np.ones((height, width), bool)
    turn = np.linspace(0, 2 * np.pi, 8192)

    def paint(center, axes, angle, color):
        cos, sin = math.cos(angle), math.sin(angle)
        dx, dy = x - center[0], y - center[1]
        along, across = dx * cos + dy * sin, dy * cos - dx * sin
        inside = (along / max(axes[0], 1e-9)) ** 2 + (across / axes[1]) ** 2 <= 1
        image[inside] = color
        certain[inside] = True
        u, v = axes[0] * np.cos(turn), axes[1] * np.sin(turn)
        outline = np.stack([center[0] + u * cos - v * sin, center[1] + u * sin + v * cos], -1)
        for step in np.ndindex(5, 5):
            pixel = np.floor(outline).astype(int) + np.array(step) - 2
            near = np.hypot(*(pixel - outline).T) <= 1.5
            framed = ((pixel >= 0) & (pixel < [width, height])).all(-1)
            column, row = pixel[near & framed].T
            certain[row, column] = False

    for limb in (0, 1, 3, 4):
        (x0, y0), (x1, y1) = kps[limb].astype(float), kps[2].astype(float)
        half_length = int(math.hypot(x0 - x1, y0 - y1) / 2)
        angle = math.radians(int(math.degrees(math.atan2(y0 - y1, x0 - x1))))
        center = int((x0 + x1) / 2), int((y0 + y1) / 2)
        paint(center, (half_length, 4), angle, RGB[limb] * 153 // 255)
    for (px, py), color in zip(kps, RGB, strict=True):
        paint((int(px), int(py)), (10, 10), 0.0, color)
    return image, certain


@pytest.mark.parametrize("seed", range(6))
def test_draw_keypoints_paints_the_described_shapes(seed):
    kps = PORTRAIT if seed == 0 else random_kps(seed, 400, 520)
    want, certain = described(400, 520, kps)
    got = draw_keypoints(400, 520, kps)
    assert got.dtype == np.uint8
    assert certain.mean() > 0.95 and want.any(-1)[certain].sum() > 900
    np.testing.assert_array_equal(got[certain], want[certain])
    palette = {tuple(c) for c in np.concatenate([RGB, RGB * 153 // 255, [[0, 0, 0]]])}
    assert {tuple(c) for c in got[~certain]} <= palette


def official_draw_kps(height, width, kps):
    """InstantID's own drawing, on a float canvas (Apache-2.0, base pipeline lines 107 to 134)."""
    canvas = np.zeros([height, width, 3])
    for index in np.array([[0, 2], [1, 2], [3, 2], [4, 2]]):
        color = tuple(map(int, RGB[index[0]]))
        x, y = kps[index][:, 0], kps[index][:, 1]
        length = ((x[0] - x[1]) ** 2 + (y[0] - y[1]) ** 2) ** 0.5
        angle = math.degrees(math.atan2(y[0] - y[1], x[0] - x[1]))
        center = (int(np.mean(x)), int(np.mean(y)))
        polygon = cv2.ellipse2Poly(center, (int(length / 2), 4), int(angle), 0, 360, 1)
        canvas = cv2.fillConvexPoly(canvas.copy(), polygon, color)
    canvas = (canvas * 0.6).astype(np.uint8)
    for color, (x, y) in zip(RGB.tolist(), kps, strict=True):
        canvas = cv2.circle(canvas.copy(), (int(x), int(y)), 10, color, -1)
    return canvas


def test_draw_keypoints_equals_the_official_drawing():
    for seed in range(50):
        height, width = np.random.default_rng(seed).integers(64, 300, 2).tolist()
        kps = random_kps(seed, height, width)
        want = official_draw_kps(height, width, kps)
        np.testing.assert_array_equal(draw_keypoints(height, width, kps), want)


def test_discs_are_bright_and_limbs_are_not():
    image = draw_keypoints(400, 520, PORTRAIT)
    for (x, y), color in zip(PORTRAIT.astype(int), RGB, strict=True):
        np.testing.assert_array_equal(image[y, x], color)
        np.testing.assert_array_equal(image[y, x + 10], color)
        assert (image[y, x + 11] != color).any()
    x, y = ((PORTRAIT[0] + PORTRAIT[2]) / 2).astype(int)
    np.testing.assert_array_equal(image[y, x], [153, 0, 0])


def test_positions_are_truncated_not_rounded():
    low = draw_keypoints(64, 64, np.full((5, 2), 30.0))
    np.testing.assert_array_equal(draw_keypoints(64, 64, np.full((5, 2), 30.99)), low)
    assert (draw_keypoints(64, 64, np.full((5, 2), 31.0)) != low).any()


def test_later_parts_cover_earlier_ones():
    same = draw_keypoints(64, 64, np.full((5, 2), 32.0))
    np.testing.assert_array_equal(same[32, 32], RGB[4])
    # Two limbs on one line to the nose: the second one's color shows where they overlap.
    kps = np.array([[10, 30], [40, 30], [110, 30], [60, 100], [110, 110]], np.float32)
    image = draw_keypoints(128, 128, kps)
    np.testing.assert_array_equal(image[30, 75], [0, 153, 0])


def test_points_out_of_frame_are_clipped():
    assert not draw_keypoints(32, 48, np.full((5, 2), 1e6)).any()
    edge = draw_keypoints(32, 48, np.full((5, 2), -5.0))
    assert edge[0, 0].any() and not edge[8, 8].any()


@pytest.mark.parametrize(
    ("kps", "message"),
    [
        (np.full((5, 2), np.nan), "NaN"),
        (np.full((5, 2), -np.inf), "infinity"),
        (np.zeros((4, 2)), r"\[4, 2\]"),
        (np.full((5, 2), 1e10), "1e\\+10"),
    ],
)
def test_unusable_keypoints_are_refused(kps, message):
    with pytest.raises(InputError, match=message):
        draw_keypoints(32, 32, kps)


def test_a_image_without_pixels_is_refused():
    with pytest.raises(InputError, match="0 x 32"):
        draw_keypoints(0, 32, PORTRAIT)
