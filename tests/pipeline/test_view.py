"""The part of an image that is painted over: cut out, and pasted back."""

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from instantid_jax import Face
from instantid_jax.errors import InputError
from instantid_jax.pipeline.conditions.view import View, crop_region
from instantid_jax.request import Request

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (60, 90, 3), np.uint8)


def mask(left=30, top=20, right=50, bottom=44, size=(60, 90)):
    levels = np.zeros(size, np.uint8)
    levels[top:bottom, left:right] = 255
    return levels


def view(size=(64, 96), **arguments):
    return View.of(Request("x", image=IMAGE, **arguments), size)


@pytest.mark.parametrize("padding", [0, 3, 12, 200])
@pytest.mark.parametrize("size", [(64, 64), (64, 128), (128, 64)])
@pytest.mark.parametrize(
    "box", [(30, 20, 50, 44), (0, 0, 5, 60), (85, 50, 90, 60), (2, 30, 88, 33), (7, 9, 8, 10)]
)
def test_region_is_diffusers(box, size, padding):
    theirs = VaeImageProcessor.get_crop_region(
        Image.fromarray(mask(*box)), width=size[1], height=size[0], pad=padding
    )
    assert crop_region(mask(*box), size, padding) == theirs


def test_outside_the_mask_every_byte_is_the_originals():
    for arguments in ({}, {"padding_mask_crop": 8}, {"mask_blur": 0}):
        shown = view((60, 90), mask_image=mask(), **arguments)
        made = np.full((60, 90, 3), 7, np.uint8)
        pasted = shown.paste(made)
        assert pasted.shape == IMAGE.shape and pasted.dtype == np.uint8
        np.testing.assert_array_equal(pasted[mask() == 0], IMAGE[mask() == 0])
        assert (pasted[32, 40] == 7).all()


def test_the_result_fades_in_inside_the_mask():
    made = np.full((60, 90, 3), 255, np.uint8)
    black = View(np.zeros_like(IMAGE), mask(), (0, 0, 90, 60), blur=6.0)
    row = black.paste(made)[32, :, 0].astype(int)
    assert row[29] == 0 and row[40] == 255
    assert (np.diff(row[29:36]) > 0).all()
    hard = View(np.zeros_like(IMAGE), mask(), (0, 0, 90, 60), blur=0.0).paste(made)
    np.testing.assert_array_equal(hard[..., 0], mask())


def test_a_thin_mask_is_painted():
    thin = mask(10, 10, 80, 13)
    made = view((60, 90), mask_image=thin).paste(np.full((60, 90, 3), 7, np.uint8))
    assert (made[11, 40] == 7).all()


def test_floats_are_pasted_as_bytes_are():
    made = RANDOM.integers(0, 256, (64, 96, 3), np.uint8)
    shown = view(mask_image=mask(), padding_mask_crop=4)
    whole = shown.paste(made)
    assert whole.shape == IMAGE.shape
    floats = shown.paste((made / 255).astype(np.float32))
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, whole / 255, atol=0.6 / 255)


def test_without_a_mask_nothing_is_pasted():
    made = RANDOM.integers(0, 256, (64, 96, 3), np.uint8)
    assert view().paste(made) is made
    assert View.of(Request("x"), (64, 64)) is None


def test_hard_masks_are_cut_in_two_and_gray_ones_kept():
    hard = view((48, 72), mask_image=mask()).sampling_mask((48, 72))
    assert hard.shape == (6, 9) and set(np.unique(hard)) == {0, 1}
    gray = np.tile(np.linspace(0, 255, 90).astype(np.uint8), (60, 1))
    soft = view((48, 72), mask_image=gray).sampling_mask((48, 72))
    assert len(np.unique(soft)) == 9 and (np.diff(soft[0]) > 0).all()


def test_keypoints_follow_the_cut():
    kps = np.array([[36, 26], [44, 26], [40, 30], [37, 36], [43, 36]], np.float32)
    face = Face(embedding=np.ones(512), kps=kps, image_size=(60, 90))
    shown = view((64, 64), mask_image=mask(), padding_mask_crop=2)
    left, top, right, bottom = shown.box
    placed = shown.place(face, (64, 64))
    np.testing.assert_allclose(
        placed[2], [(40 - left) * 64 / (right - left), (30 - top) * 64 / (bottom - top)]
    )
    np.testing.assert_allclose(view((60, 90)).place(face, (60, 90)), kps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_image": mask(size=(60, 91))}, "mask_image has 91 x 60 pixels, image 90 x 60"),
        ({"mask_image": np.zeros((60, 90), np.uint8)}, "mask_image is black everywhere"),
    ],
)
def test_refused_masks(arguments, message):
    with pytest.raises(InputError, match=message):
        view(**arguments)
