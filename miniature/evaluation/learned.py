"""The captions that the base model and InstantID learned from."""

import functools

import numpy as np

from miniature import people
from miniature.base import text_to_image
from miniature.base.pictures import shown
from miniature.drawing.scene import random_scene, scene_generator


@functools.cache
def learned_captions() -> frozenset[str]:
    """Those of the base model's pictures and of InstantID's people, as many as are usual.

    What is shipped saw, in place of each person's last scene, one of the key [*person, 0]; its
    caption is among them, too.
    """
    scenes = [
        shown(text_to_image.SEED, number)[1] for number in range(text_to_image.Options.pictures)
    ]
    for person in range(people.Options.people):
        key = [people.SEED, person]
        scenes.append(random_scene(np.random.default_rng([*key, 0])))
        scenes += [random_scene(scene_generator(key, i)) for i in range(people.Options.pictures)]
    return frozenset(scene.caption for scene in scenes)
