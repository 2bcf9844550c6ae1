"""Drawn portraits: reproducible, keypoints match the face, captions describe the scene."""

import dataclasses
import itertools
from typing import get_args

import numpy as np
import pytest

from miniature.drawing.scene import (
    Background,
    Clothing,
    ColorName,
    Expression,
    Light,
    Style,
    random_scene,
)
from miniature.drawing.traits import Beard, Glasses, Hair, Marks, Nose, random_traits
from miniature.portraits import draw, draw_deserted, draw_random


def person(seed=0, **changes):
    plain = {"glasses": "none", "beard": "none", "marks": "none", "hair": "buzz", "age": 0.0}
    return dataclasses.replace(random_traits(np.random.default_rng(seed)), **(plain | changes))


def scene(seed=0, **changes):
    plain = {"style": "cartoon", "light": "even", "background": "wall", "gaze": (0.0, 0.0)}
    return dataclasses.replace(random_scene(np.random.default_rng(seed)), **(plain | changes))


def difference(one, other):
    """Coordinates (y, x) of the pixels in which two portraits differ, and their differences."""
    pixels = [np.asarray(p.image, float) for p in (one, other)]
    by = np.abs(pixels[0] - pixels[1]).sum(-1)
    where = np.argwhere(by > 12)
    return where, by[tuple(where.T)]


def test_seed_determines_the_portrait():
    one, again, other = draw_random(3), draw_random(3), draw_random(4)
    assert one.image.tobytes() == again.image.tobytes()
    assert (one.traits, one.scene, one.caption) == (again.traits, again.scene, again.caption)
    assert one.traits != other.traits and one.scene != other.scene
    assert one.image.size == (128, 128) and one.image.mode == "RGB"


@pytest.mark.parametrize("seed", range(4))
def test_keypoints_match_the_eyes(seed):
    """Another eye color changes the picture only around the first two keypoints."""
    brown, blue = (
        draw(
            person(seed, eye_color=c, eye_openness=1.0),
            scene(seed, expression="neutral"),
            (512, 512),
        )
        for c in (0.0, 0.8)
    )
    where, _ = difference(brown, blue)
    for kp in brown.kps[:2]:
        near = where[np.abs(where[:, ::-1] - kp).max(1) < 40]
        assert len(near) > 50
        # The lids cover the irises unevenly.
        np.testing.assert_allclose(near[:, 1].mean(), kp[0], atol=4)
        np.testing.assert_allclose(near[:, 0].mean(), kp[1], atol=6)
        where = where[np.abs(where[:, ::-1] - kp).max(1) >= 40]
    assert len(where) == 0


@pytest.mark.parametrize("expression", get_args(Expression))
def test_keypoints_match_the_corners_of_the_mouth(expression):
    given = scene(1, expression=expression, roll=0.0)
    plain, painted = (draw(person(1, lip_color=c), given, (512, 512)) for c in (0.0, 1.0))
    where, _ = difference(plain, painted)
    left, right = plain.kps[3:]
    np.testing.assert_allclose([where[:, 1].min(), where[:, 1].max()], [left[0], right[0]], atol=8)


def test_keypoint_matches_the_nose():
    narrow, broad = (
        draw(person(2, nose="straight", nose_width=w), scene(2), (512, 512)) for w in (0.0, 1.0)
    )
    where, by = difference(narrow, broad)
    middle = np.average(where[:, ::-1], axis=0, weights=by)
    eyes_apart = np.linalg.norm(narrow.kps[1] - narrow.kps[0])
    assert np.linalg.norm(middle - narrow.kps[2]) < 0.12 * eyes_apart


def test_keypoints_and_box_scale_with_the_picture():
    small, large = (draw(person(), scene(), (side, side)) for side in (128, 256))
    np.testing.assert_allclose(2 * small.kps, large.kps, rtol=1e-5)
    np.testing.assert_allclose(2 * small.bbox, large.bbox, rtol=1e-5)
    shrunk = np.asarray(large.image.reduce(2), float)
    assert np.abs(shrunk - np.asarray(small.image, float)).mean() < 4


def test_every_face_is_inside_its_picture():
    for seed in range(50):
        portrait = draw(random_traits(np.random.default_rng(seed)), scene(seed))
        left, top, right, bottom = portrait.bbox
        assert 0 <= left < right <= 128 and 0 <= top < bottom <= 128
        assert (portrait.kps > [left, top]).all() and (portrait.kps < [right, bottom]).all()
        eyes, nose, mouth = portrait.kps[:2], portrait.kps[2], portrait.kps[3:]
        assert eyes[0, 0] < eyes[1, 0] and mouth[0, 0] < mouth[1, 0]
        assert eyes[:, 1].max() < nose[1] < mouth[:, 1].max()


CHOICES = {
    "style": Style, "background": Background, "expression": Expression, "clothing": Clothing,
    "clothing_color": ColorName, "wall_color": ColorName, "light": Light,
}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_each_choice_of_a_scene_changes_caption_and_picture(name):
    scenes = [scene(5, **{name: choice}) for choice in get_args(CHOICES[name])]
    captions = {s.caption for s in scenes}
    pictures = {draw(person(), s).image.tobytes() for s in scenes}
    assert len(captions) == len(pictures) == len(scenes)


KINDS = {"hair": Hair, "beard": Beard, "glasses": Glasses, "nose": Nose, "marks": Marks}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_a_trait_changes_the_picture_but_not_the_caption(name):
    portraits = [draw(person(**{name: kind}), scene()) for kind in get_args(KINDS[name])]
    assert len({p.caption for p in portraits}) == 1
    for one, other in itertools.combinations(portraits, 2):
        assert len(difference(one, other)[0]) > 8, (one.traits, other.traits)


NUMBERS = [f.name for f in dataclasses.fields(person()) if f.type is float]


@pytest.mark.parametrize("name", NUMBERS)
def test_each_numeric_trait_changes_the_picture(name):
    shown = {"glasses": "round", "hair": "side part", "age": 1.0, "eye_openness": 1.0}
    low, high = (
        draw(person(6, **(shown | {name: value})), scene(6, yaw=0.0)) for value in (0.0, 1.0)
    )
    assert len(difference(low, high)[0]) > 8


@pytest.mark.parametrize("style", get_args(Style))
def test_styles_do_not_shift_the_picture(style):
    """Tests the picture as a whole, not displacements of single edges."""
    plain, painted = (
        np.asarray(draw(person(3), scene(3, style=s), (256, 256)).image.convert("L"), float)
        for s in ("cartoon", style)
    )
    plain, painted = (p - p.mean() for p in (plain, painted))

    def overlap(shift):
        return (np.roll(plain, shift, (0, 1)) * painted).sum()

    shifts = list(itertools.product(range(-6, 7, 2), repeat=2))
    best = max(shifts, key=overlap)
    assert max(map(abs, best)) <= 2


def test_deserted_scene_equals_the_portrait_outside_the_person():
    portrait = draw_random(12)
    deserted = np.asarray(draw_deserted(portrait.scene), float)
    differs = np.abs(np.asarray(portrait.image, float) - deserted).sum(-1) > 0
    left, top, right, bottom = portrait.bbox.astype(int)
    assert differs[top:bottom, left:right].mean() > 0.5
    assert not differs[:5].any() and not differs[:40, :5].any()
