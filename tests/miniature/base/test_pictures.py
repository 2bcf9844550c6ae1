"""Pictures of the base model's training: portraits, and groups among them."""

import numpy as np

from miniature.base.pictures import FORMATS, Mixture, drawn_pictures, formats, shown
from miniature.drawing.scene import BUST, CLOSE


def test_every_few_pictures_show_a_group(tmp_path):
    mixture = Mixture(framing=CLOSE, groups=10)
    pictures = drawn_pictures(tmp_path, 50, 1, 1, mixture)
    assert pictures.pixels.shape == (50, 128, 128, 3)
    people = np.isfinite(pictures.bboxes).all(2).sum(1)
    grouped = np.arange(50) % 10 == 0
    np.testing.assert_array_equal(people > 1, grouped)
    assert people.max() == 3
    captions = [caption.split(" of ")[1].split(":")[0] for caption in pictures.captions[grouped]]
    assert set(captions) <= {"two people", "three people"}
    assert all(c.endswith(" light") or "light from" in c for c in pictures.captions)
    assert pictures.bboxes.shape == (50, 3, 4)
    left, top, right, bottom = np.moveaxis(pictures.bboxes[~grouped, 0], 1, 0)
    assert np.median(np.sqrt((right - left) * (bottom - top))) >= 75


def test_portraits_are_those_of_any_mixture_with_the_same_framing():
    for number in (3, 4):
        ((traits, scene),) = shown(7, number)
        ((grouped_traits, grouped_scene),) = shown(7, number, Mixture(groups=10))
        assert (traits, scene) == (grouped_traits, grouped_scene)
        ((close_traits, close_scene),) = shown(7, number, Mixture(framing=CLOSE))
        assert traits == close_traits
        assert scene.caption == close_scene.caption
        assert close_scene.face_height > scene.face_height <= BUST.face_height[1]


def test_formats_share_no_picture_and_add_up():
    listed = formats(401, 1000)
    assert [number for _, _, number in listed] == [500, 100, 100, 100, 100, 100]
    assert sum(share for _, share in FORMATS) == 10
    assert len({seed for _, seed, _ in listed}) == len(listed)
    traits = [shown(seed, 1, mixture)[0][0] for mixture, seed, _ in listed]
    assert len(set(traits)) == len(traits)


def test_pictures_have_the_formats_size(tmp_path):
    wide = drawn_pictures(tmp_path, 50, 2, 1, Mixture(size=(64, 48), groups=2))
    assert wide.pixels.shape == (50, 48, 64, 3)
    right, bottom = np.nanmax(wide.bboxes[..., 2]), np.nanmax(wide.bboxes[..., 3])
    assert 48 < right and bottom < 60
