"""Crops of drawn people: aligned, reproducible, drawn once."""

import numpy as np
import pytest

from instantid_jax.face.analysis import aligned_crop
from miniature.drawing.scene import scene_generator
from miniature.drawing.traits import random_traits
from miniature.faces.crops import KINDS, NUMBERS, draw_crop, drawn_crops
from miniature.portraits import draw_random

# insightface's positions of eyes, nose and corners of the mouth in 112 x 112 pixels.
TEMPLATE = np.array(
    [[38.29, 51.70], [73.53, 51.50], [56.03, 71.74], [41.55, 92.37], [70.73, 92.20]]
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    return folder, drawn_crops(folder, people=100, pictures=2, seed=7, processes=2)


def test_crops_are_aligned_to_insightfaces_template():
    portrait = draw_random(3)
    plain = np.asarray(portrait.image)
    marked = plain.copy()
    for x, y in portrait.kps[:2].round().astype(int):
        marked[y - 1 : y + 2, x - 1 : x + 2] ^= 255
    crops = (aligned_crop(pixels, portrait.kps, 112).astype(int) for pixels in (plain, marked))
    changed = np.argwhere(np.abs(np.subtract(*crops)).sum(-1) > 60)
    assert len(changed) > 8
    distance = np.linalg.norm(changed[:, None, ::-1] - TEMPLATE[:2], axis=-1)
    assert (distance.min(1) < 8).all() and (distance.min(0) < 8).all()


def test_shapes_and_contents(drawn):
    _, crops = drawn
    assert crops.pixels.shape == (100, 2, 112, 112, 3)
    assert crops.numbers.shape == (100, len(NUMBERS) + 2)
    key = [7, 42]
    traits = random_traits(np.random.default_rng(key))
    assert crops.numbers[42, NUMBERS.index("skin")] == np.float32(traits.skin)
    assert [KINDS[n][k] for n, k in zip(KINDS, crops.kinds[42], strict=True)] == [
        getattr(traits, name) for name in KINDS
    ]
    again = draw_crop(traits, scene_generator(key, 1))
    np.testing.assert_array_equal(crops.pixels[42, 1], again)


def test_pictures_of_a_person_differ_and_are_drawn_once(drawn):
    folder, crops = drawn
    assert (crops.pixels[:, 0] != crops.pixels[:, 1]).any((1, 2, 3)).all()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = drawn_crops(folder, people=100, pictures=2, seed=7, processes=1)
    np.testing.assert_array_equal(again.pixels, crops.pixels)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
