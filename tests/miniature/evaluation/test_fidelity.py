"""Fidelity measures, on pictures and features with known values."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from miniature.evaluation.fidelity import face_sharpness, frechet_distance, psnr
from miniature.portraits import draw_random


def test_sharpness_decreases_with_blur_and_depends_only_on_the_face():
    portraits = [draw_random(seed) for seed in range(4)]
    boxes = np.stack([p.bbox for p in portraits])

    def sharpness(radius):
        made = [p.image.filter(ImageFilter.GaussianBlur(radius)) for p in portraits]
        return face_sharpness(np.stack([np.asarray(m) for m in made]), boxes)

    drawn, soft, softer = map(sharpness, (0, 0.7, 1.5))
    assert (drawn > 2 * soft).all() and (soft > 2 * softer).all()
    outside = np.stack([np.asarray(p.image) for p in portraits]).copy()
    for picture, (left, top, right, bottom) in zip(outside, boxes.round().astype(int), strict=True):
        face = picture[top:bottom, left:right].copy()
        picture[:] = 0
        picture[top:bottom, left:right] = face
    np.testing.assert_array_equal(face_sharpness(outside, boxes), drawn)


def test_sharpness_of_a_checkerboard_is_the_kernels_response():
    # Four of eight neighbors differ by 100, so the response is +-400.
    board = (np.indices((128, 128)).sum(0) % 2 * 100).astype(np.uint8)
    picture = np.asarray(Image.fromarray(board).convert("RGB"))[None]
    found = face_sharpness(picture, np.array([[0, 0, 128, 128]]))
    np.testing.assert_allclose(found, 400**2, rtol=0.02)


def test_psnr_of_each_picture():
    one = np.full((2, 8, 8, 3), 100, np.uint8)
    other = one.copy()
    other[0] += 10
    other[1, :4] += 20
    np.testing.assert_allclose(
        psnr(one, other), [20 * np.log10(25.5), 20 * np.log10(255 / np.sqrt(200))]
    )


def test_frechet_distance_of_normal_features():
    random = np.random.default_rng(0)
    one = random.normal(0, 1, (40_000, 3))
    # The means differ by 2; deviations 1 and 3 add (3 - 1)^2 per axis.
    other = random.normal(0, 3, (40_000, 3)) + [2, 0, 0]  # noqa: RUF005
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, other) == pytest.approx(4 + 3 * 4, rel=0.02)
    assert frechet_distance(other, one) == pytest.approx(frechet_distance(one, other))
