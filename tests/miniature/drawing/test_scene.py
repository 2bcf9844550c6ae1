"""What scenes are drawn from."""

import numpy as np

from miniature.drawing.scene import random_scene, scene_generator
from miniature.drawing.traits import random_traits


def test_a_persons_scenes_tell_nothing_of_who_it_is():
    keys = [(7, person) for person in range(400)]
    skins = [random_traits(np.random.default_rng(key)).skin for key in keys]
    sizes = [
        [random_scene(scene_generator(key, number)).face_height for key in keys]
        for number in range(3)
    ]
    apart = np.corrcoef([skins, *sizes]) - np.eye(4)
    assert np.abs(apart).max() < 0.2
