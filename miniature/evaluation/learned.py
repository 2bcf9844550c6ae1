"""The captions that the miniature learned from."""

import functools

import numpy as np

from miniature import people
from miniature.base import text_to_image
from miniature.drawing.scene import random_scene, scene_generator
from miniature.drawing.traits import random_traits


@functools.cache
def learned_captions() -> frozenset[str]:
    """Those of the base model's pictures and of InstantID's people, as many as are usual.

    With those of the scenes that the shipped weights saw of each person before `scene_generator`
    drew them: of the person's own key and a number from 0 up.
    """
    captions = set()
    for number in range(text_to_image.Options.pictures):
        random = np.random.default_rng([text_to_image.SEED, number])
        random_traits(random)
        captions.add(random_scene(random).caption)
    for person in range(people.Options.people):
        key = [people.SEED, person]
        captions.add(random_scene(np.random.default_rng([*key, 0])).caption)
        for i in range(people.Options.pictures):
            captions.add(random_scene(scene_generator(key, i)).caption)
    return frozenset(captions)
