import numpy as np
import pytest

from miniature.drawing.scene import random_scene
from miniature.evaluation.named import BACKGROUNDS, STYLES, named


def test_names_the_scenes_style_and_background():
    seen = set()
    for seed in range(200):
        scene = random_scene(np.random.default_rng(seed))
        style, background = named(scene.caption)
        assert (STYLES[style], BACKGROUNDS[background]) == (scene.style, scene.background)
        seen.add((style, background))
    assert len(seen) > 45


def test_rejects_other_captions():
    with pytest.raises(ValueError, match="unpack"):
        named("a photograph of a person in a forest")
