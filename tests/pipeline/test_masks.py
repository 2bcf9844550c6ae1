"""Masks of ControlNets and of the Image Adapter."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from instantid_jax import InputError
from instantid_jax.pipeline.conditions.masks import resolve_masks
from instantid_jax.pipeline.conditions.view import View
from tests.pipeline.small_model import SIZE, person
from tests.pipeline.test_compilation import compiled_by
from tests.pipeline.test_controlnets import IMAGE, of_two, pipe_of_two

__all__ = ["compiled_by", "of_two", "pipe_of_two"]

LEFT = np.zeros(SIZE, np.uint8)
LEFT[:, :64] = 255
GRAY = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)


def sides(size):
    """Sizes of the feature maps of three levels."""
    sides = [(size[0] // 8, size[1] // 8)]
    for _ in range(2):
        sides.append(tuple(-(-side // 2) for side in sides[-1]))
    return sides


@pytest.mark.parametrize("size", [(64, 128), (136, 200), (72, 8)])
def test_levels_are_those_of_torch(size):
    mask = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    masks = resolve_masks([[mask, None]], [None], size, levels=3)
    image = torch.from_numpy(mask / np.float32(255))[None, None]
    for i, side in enumerate(sides(size)):
        bilinear = functional.interpolate(image, side, mode="bilinear")[0]
        np.testing.assert_allclose(masks.controlnets[0][i], bilinear, atol=2e-5)
        nearest = functional.interpolate(image, side, mode="nearest")[0]
        np.testing.assert_array_equal(masks.adapter[i], nearest)
        assert (masks.controlnets[1][i] == 1).all() and masks.controlnets[1][i].shape == (1, *side)


def test_a_mask_lies_in_the_whole_image():
    mask = np.zeros((80, 120), np.uint8)
    mask[20:60, 40:80] = 255
    view = View(np.zeros((80, 120, 3), np.uint8), None, (40, 20, 120, 60))
    (whole, *_) = resolve_masks([[mask]], [view], (40, 80), levels=3).controlnets[0]
    np.testing.assert_array_equal(whole[0], np.repeat([[1] * 5 + [0] * 5], 5, axis=0))
    # A mask of another size is resized to the image.
    large = np.kron(mask, np.ones((2, 2), np.uint8))
    (again, *_) = resolve_masks([[large]], [view], (40, 80), levels=3).controlnets[0]
    np.testing.assert_allclose(again[0], whole[0], atol=0.1)


def test_white_is_no_mask(sample):
    white = np.full((*SIZE, 3), 255, np.uint8)
    np.testing.assert_array_equal(sample(control_mask=white).latents, sample().latents)


def test_outside_its_mask_identitynet_and_the_adapter_count_little(sample):
    off = sample(controlnet_conditioning_scale=0, ip_adapter_scale=0, num_inference_steps=1)
    moved = {
        name: np.abs(sample(control_mask=mask, num_inference_steps=1).latents - off.latents)
        for name, mask in {"left": LEFT, "right": LEFT[:, ::-1]}.items()
    }
    assert moved["left"][:, :, :4].mean() > 1.1 * moved["right"][:, :, :4].mean()
    assert moved["right"][:, :, -4:].mean() > 1.1 * moved["left"][:, :, -4:].mean()


def test_each_controlnet_has_its_mask(of_two):
    images = {"control_images": [IMAGE]}
    plain, first, second, both = (
        of_two(**images, **masks)
        for masks in (
            {},
            {"control_mask": LEFT},
            {"control_masks": [LEFT]},
            {"control_mask": LEFT, "control_masks": [LEFT]},
        )
    )
    latents = [plain, first, second, both]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(latents) for b in latents[:i])
    np.testing.assert_array_equal(of_two(**images, control_masks=[None]), plain)


def test_a_batch_mixes_masks(sample):
    several = {"prompt": ["rain"] * 3, "num_images_per_prompt": 2, "face": person(0)}
    mixed = sample(**several, control_mask=[LEFT, None, GRAY]).latents
    for i, mask in enumerate([LEFT, None, GRAY]):
        alone = sample(**several, control_mask=mask).latents
        np.testing.assert_array_equal(mixed[2 * i : 2 * i + 2], alone[2 * i : 2 * i + 2])


def test_masks_compile_nothing(sample, of_two, compiled_by):
    sample()
    of_two(control_images=[IMAGE])
    for mask in (LEFT, GRAY, None):
        assert compiled_by(sample, control_mask=mask) == []
        assert compiled_by(of_two, control_images=[IMAGE], control_masks=[mask]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"control_mask": np.zeros(SIZE, np.uint8)}, "control_mask is black everywhere"),
        ({"control_mask": "nowhere.png"}, "nowhere.png: no such file"),
        ({"control_masks": [LEFT]}, "control_masks has 1 entries, 0 additional ControlNets"),
        ({"control_masks": "a.png"}, "control_masks='a.png': expected a list of images|0 addi"),
    ],
)
def test_refused(sample, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        sample(**arguments)
    assert "\n" not in str(error.value)
