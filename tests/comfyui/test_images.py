"""Tensors to and from pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui import images
from instantid_jax import InputError


def test_all_8_bit_values_survive_in_both_directions():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
    tensor = images.to_tensor([pixels, 255 - pixels])
    assert tensor.dtype == torch.float32 and tensor.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(images.read_images("image", tensor), [pixels, 255 - pixels])
    # As ComfyUI's nodes that load and save images do it.
    assert torch.equal(tensor[0], torch.from_numpy(pixels.astype(np.float32) / 255.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_memory_layouts_are_read(dtype):
    tensor = torch.rand(1, 3, 4, 5).to(dtype).permute(0, 2, 3, 1).requires_grad_()
    (pixels,) = images.read_images("image", tensor)
    expected = (tensor.detach().double().numpy()[0] * 255).round()
    assert np.abs(pixels - expected).max() <= 1 and pixels.shape == (4, 5, 3)


def test_transparency_is_composited_on_white_and_gray_becomes_rgb():
    tensor = torch.zeros(1, 1, 2, 4)
    tensor[0, 0, 1, 3] = 1
    np.testing.assert_array_equal(images.read_one("image", tensor)[0], [[255, 255, 255], [0, 0, 0]])
    gray = images.read_one("image", torch.full((1, 2, 2, 1), 0.2))
    assert gray.shape == (2, 2, 3) and (gray == 51).all()


def test_values_out_of_range_are_clipped():
    tensor = torch.tensor([-1.0, 0.5, 7.0]).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(images.read_one("image", tensor)[0, 0], [0, 128, 255])


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8)])
def test_masks_become_gray(shape):
    mask = images.read_mask("mask", torch.full(shape, 0.2))
    assert mask.dtype == np.uint8 and mask.shape == (8, 8, 3) and (mask == 51).all()


@pytest.mark.parametrize(
    "read, tensor, message",
    [
        (images.read_images, torch.zeros(8, 8, 3), "image has shape"),
        (images.read_images, torch.zeros(1, 8, 8, 2), "image has shape"),
        (images.read_images, torch.zeros(0, 8, 8, 3), "image has shape"),
        (images.read_images, torch.full((1, 8, 8, 3), torch.nan), "image holds NaN"),
        (images.read_one, torch.zeros(2, 8, 8, 3), "image has 2 images: connect one"),
        (images.read_mask, torch.zeros(2, 8, 8), "image has shape"),
        (images.read_mask, torch.zeros(1, 0, 8), "image has shape"),
        (images.read_mask, torch.full((1, 8, 8), torch.inf), "image holds NaN or infinity"),
    ],
)
def test_other_tensors_are_refused(read, tensor, message):
    with pytest.raises(InputError, match=message):
        read("image", tensor)


def test_png_files_keep_pixels_and_give_their_texts(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    decoded, texts = images.decode_png(images.encode_png(pixels))
    np.testing.assert_array_equal(decoded, pixels)
    assert texts == {}
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg")
    with pytest.raises((OSError, ValueError)):
        images.decode_png((tmp_path / "a.jpg").read_bytes())
