import numpy as np
import pytest

from train.data.crop import choose_crop

FACE = np.array([[30.0, 20.0], [50.0, 60.0]])


def test_image_of_the_targets_shape_is_only_resized():
    crop = choose_crop((200, 100), (100, 50), FACE, "random", (0.9, 0.9))
    assert (crop.resized, crop.top, crop.left) == ((100, 50), 0, 0)
    np.testing.assert_array_equal(crop.points(np.array([[30, 20]])), [[15, 10]])
    np.testing.assert_array_equal(crop.box(np.array([-10, 20, 50, 300])), [0, 10, 25, 100])


@pytest.mark.parametrize(("source", "target"), [((300, 100), (96, 96)), ((100, 300), (96, 64))])
def test_random_windows_cover_all_positions_that_contain_the_face(source, target):
    face = np.array([[40.0, 60.0], [60.0, 90.0]])
    found = set()
    for draw in np.arange(0, 1, 0.004):
        crop = choose_crop(source, target, face, "random", (draw, draw))
        points = crop.points(face)
        assert points.min() >= 0 and (points.max(0) <= (target[1], target[0])).all()
        assert 0 <= crop.top <= crop.resized[0] - target[0]
        assert 0 <= crop.left <= crop.resized[1] - target[1]
        found.add((crop.top, crop.left))
    tops, lefts = (np.array(places) for places in zip(*found, strict=True))
    scale = crop.resized[0] / source[0]
    axis, places = (0, tops) if source[0] > source[1] else (1, lefts)
    low, high = np.floor(face[:, 1 - axis].min() * scale), np.ceil(face[:, 1 - axis].max() * scale)
    assert places.min() == max(0, high - target[axis])
    assert places.max() == min(low, crop.resized[axis] - target[axis])
    assert len(set(places.tolist())) == places.max() - places.min() + 1


def test_center_moves_only_for_the_face():
    inside = np.array([[40.0, 140.0], [60.0, 160.0]])
    above = np.array([[40.0, 10.0], [60.0, 30.0]])
    below = np.array([[40.0, 270.0], [60.0, 299.0]])
    tops = [choose_crop((300, 100), (100, 100), f, "center").top for f in (inside, above, below)]
    assert tops == [100, 10, 199]


def test_face_longer_than_the_window_is_centered():
    face = np.array([[0.0, 50.0], [100.0, 250.0]])
    for policy in ("center", "random"):
        crop = choose_crop((300, 100), (100, 100), face, policy, (0.99, 0.0))
        assert crop.top == 100
    beyond = np.array([[0.0, -500.0], [100.0, 150.0]])
    assert choose_crop((300, 100), (100, 100), beyond, "random").top == 25


def test_small_images_are_upscaled():
    crop = choose_crop((30, 40), (96, 96), np.array([[5.0, 5.0]]), "center")
    assert crop.resized == (96, 128)
    assert crop.pixels(np.zeros((30, 40, 3), np.uint8)).shape == (96, 96, 3)


def test_every_shape_covers_the_target():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width, *target = map(int, rng.integers(1, 300, 4))
        face = rng.uniform(-50, 350, (2, 2))
        crop = choose_crop((height, width), tuple(target), face, "random", (rng.random(), 0.999))
        cut = crop.pixels(np.zeros((height, width, 3), np.uint8))
        assert cut.shape == (*target, 3)


@pytest.mark.parametrize(
    ("source", "reduction"), [((127, 300), 1), ((128, 300), 2), ((256, 256), 4), ((900, 700), 8)]
)
def test_reduction_is_the_largest_that_covers_the_target(source, reduction):
    crop = choose_crop(source, (64, 64), FACE, "center")
    assert crop.reduction == reduction


def test_downscaling_does_not_alias():
    # One-pixel stripes average to gray.
    stripes = np.zeros((96, 150, 3), np.uint8)
    stripes[:, ::2] = 200
    crop = choose_crop((96, 150), (64, 64), np.array([[70.0, 50.0]]), "center")
    cut = crop.pixels(stripes).astype(int)
    # Area averaging leaves a contrast of 33 of 100, no blur 100.
    assert np.abs(cut - 100).max() < 33
    flat = np.full((96, 150, 3), 77, np.uint8)
    np.testing.assert_array_equal(crop.pixels(flat), 77)
