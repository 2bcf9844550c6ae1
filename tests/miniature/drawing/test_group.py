"""Pictures of two and three people."""

import itertools
import math

import numpy as np
import pytest

from miniature.drawing.group import SURROUNDINGS, group_caption, random_group
from miniature.drawing.head import Head
from miniature.evaluation.named import named
from miniature.portraits import draw, draw_group

SIZES = ((96, 96), (128, 128), (192, 128), (192, 192))
GROUPS = list(itertools.product((2, 3), SIZES))


def group(seed, count, size):
    return random_group(np.random.default_rng(seed), count, size)


@pytest.mark.parametrize(("count", "size"), GROUPS)
def test_faces_do_not_overlap_or_leave_the_picture(count, size):
    for seed in range(100):
        people = group(seed, count, size)
        boxes = [Head(traits, scene, *size).box() for traits, scene in people]
        assert all(a[2] < b[0] for a, b in itertools.pairwise(boxes))
        assert all((box[:2] >= 0).all() and (box[2:] <= size).all() for box in boxes)


@pytest.mark.parametrize(("count", "size"), GROUPS)
def test_people_differ_but_share_their_surroundings(count, size):
    portraits = draw_group(group(3, count, size), size)
    assert len({p.traits for p in portraits}) == len({p.scene for p in portraits}) == count
    assert len({tuple(getattr(p.scene, name) for name in SURROUNDINGS) for p in portraits}) == 1
    assert all(p.image.size == size for p in portraits)
    for p in portraits:
        assert (p.kps > p.bbox[:2]).all() and (p.kps < p.bbox[2:]).all()


def test_faces_match_those_drawn_alone():
    # SVG references of one person must not resolve to another's gradients and clip paths.
    size = (192, 128)
    people = group(5, 3, size)
    together = draw_group(people, size)
    for portrait, (traits, scene) in zip(together, people, strict=True):
        left, top, right, bottom = portrait.bbox.round().astype(int)
        inner = np.s_[(top + bottom) // 2 : bottom - 8, left + 10 : right - 10]
        alone = np.asarray(draw(traits, scene, size).image, float)[inner]
        assert np.abs(np.asarray(portrait.image, float)[inner] - alone).mean() < 2


def test_caption_names_people_in_order_and_surroundings():
    scenes = [scene for _, scene in group(1, 3, (128, 128))]
    caption = group_caption(scenes)
    places = [caption.index(scene.who) for scene in scenes]
    assert places == sorted(places) and "three people" in caption
    assert named(caption) == named(scenes[0].caption)
    assert "two people" in group_caption(scenes[:2])


def test_nearer_people_are_in_front():
    size = (192, 128)
    one, other = group(2, 2, size)
    assert draw_group([one, other], size)[0].image == draw_group([other, one], size)[0].image
    assert not math.isclose(one[1].face_height, other[1].face_height)
