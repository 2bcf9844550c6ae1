"""The captions in the training data of the base model and InstantID."""

import functools

import numpy as np

from miniature import people
from miniature.base import text_to_image
from miniature.base.pictures import PORTRAITS, formats, shown
from miniature.drawing.scene import random_scene, scene_generator


@functools.cache
def learned_captions() -> frozenset[str]:
    """Captions of the base model's pictures and InstantID's people, in their default numbers.

    The shipped model was trained on as many pictures without formats, and with a scene of the key
    [*person, 0] instead of each person's last one; these captions are included.
    """
    count = text_to_image.Options.pictures
    scenes = [
        scene
        for mixture, seed, number in [
            (PORTRAITS, text_to_image.SEED, count),
            *formats(text_to_image.SEED, count),
        ]
        for i in range(number)
        for _, scene in shown(seed, i, mixture)
    ]
    for person in range(people.Options.people):
        key = [people.SEED, person]
        scenes.append(random_scene(np.random.default_rng([*key, 0])))
        scenes += [random_scene(scene_generator(key, i)) for i in range(people.Options.pictures)]
    return frozenset(scene.caption for scene in scenes)
