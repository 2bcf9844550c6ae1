"""Random scenes and framings."""

import dataclasses

import numpy as np

from miniature.drawing.head import Head
from miniature.drawing.scene import BUST, CLOSE, random_scene, scene_generator
from miniature.drawing.traits import random_traits


def test_scenes_do_not_correlate_with_the_person():
    keys = [(7, person) for person in range(400)]
    skins = [random_traits(np.random.default_rng(key)).skin for key in keys]
    sizes = [
        [random_scene(scene_generator(key, number)).face_height for key in keys]
        for number in range(3)
    ]
    correlations = np.corrcoef([skins, *sizes]) - np.eye(4)
    assert np.abs(correlations).max() < 0.2


def test_framings_change_only_position_and_size():
    for seed in range(50):
        bust, close = (random_scene(np.random.default_rng(seed), f) for f in (BUST, CLOSE))
        moved = {"center": bust.center, "face_height": bust.face_height}
        assert dataclasses.replace(close, **moved) == bust
        assert close.face_height > bust.face_height


def test_close_faces_have_three_fifths_of_the_pictures_width():
    widths = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        left, _, right, _ = Head(random_traits(random), random_scene(random, CLOSE), 128, 128).box()
        widths.append(right - left)
        assert left > 0 and right < 128
    assert 75 <= np.median(widths) < 80
