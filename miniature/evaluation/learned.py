"""The captions in the training data of the base model and InstantID."""

import functools

import numpy as np

from miniature import people
from miniature.base import text_to_image
from miniature.base.pictures import shown
from miniature.drawing.scene import random_scene, scene_generator


@functools.cache
def learned_captions() -> frozenset[str]:
    """Captions of the base model's pictures and InstantID's people, in their default numbers.

    The shipped model was trained with a scene of the key [*person, 0] instead of each person's
    last one; the captions of both are included.
    """
    scenes = [
        scene
        for number in range(text_to_image.Options.pictures)
        for _, scene in shown(text_to_image.SEED, number)
    ]
    for person in range(people.Options.people):
        key = [people.SEED, person]
        scenes.append(random_scene(np.random.default_rng([*key, 0])))
        scenes += [random_scene(scene_generator(key, i)) for i in range(people.Options.pictures)]
    return frozenset(scene.caption for scene in scenes)
