"""ComfyUI's tensors to and from 8-bit pixels, through NumPy."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.images import read_image

Tensor = torch.Tensor


def read_images(name: str, tensor: Tensor) -> list[np.ndarray]:
    """The images of an IMAGE, each uint8 [H, W, 3] RGB.

    Args:
      name: the input's, for messages.
      tensor: [B, H, W, C] in [0, 1]; C is 1, 3 or 4. Transparency is composited on white.
    Raises:
      InputError: if it has another shape, no image, or values that are not finite.
    """
    if tensor.ndim != 4 or tensor.shape[-1] not in (1, 3, 4) or not tensor.numel():
        raise InputError(
            f"{name} has shape {list(tensor.shape)}: expected images [B, H, W, 1, 3 or 4]"
        )
    pixels = _eight_bits(name, tensor)
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    if pixels.shape[-1] == 4:
        return [read_image(Image.fromarray(each, "RGBA")) for each in pixels]
    return list(pixels)


def read_one(name: str, tensor: Tensor) -> np.ndarray:
    """The image of an IMAGE that may have only one, uint8 [H, W, 3].

    Raises:
      InputError: as `read_images` does, and for several images.
    """
    images = read_images(name, tensor)
    if len(images) > 1:
        raise InputError(f"{name} has {len(images)} images: connect one")
    return images[0]


def read_mask(name: str, tensor: Tensor) -> np.ndarray:
    """A MASK, [H, W] or [1, H, W] in [0, 1], as gray uint8 [H, W, 3].

    Raises:
      InputError: if it has another shape, no pixels, or values that are not finite.
    """
    mask = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
    if mask.ndim != 2 or not mask.numel():
        raise InputError(f"{name} has shape {list(tensor.shape)}: expected one mask [1, H, W]")
    return np.repeat(_eight_bits(name, mask)[..., None], 3, axis=-1)


def to_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """Images of one size, each uint8 [H, W, 3], as an IMAGE: float32 [B, H, W, 3] in [0, 1]."""
    return torch.from_numpy(np.stack(images).astype(np.float32) / np.float32(255))


def encode_png(pixels: np.ndarray) -> bytes:
    """The bytes of a PNG file of uint8 [H, W, 3]."""
    file = io.BytesIO()
    # Hardly larger than with Pillow's default, and several times as fast.
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def decode_png(data: bytes) -> tuple[np.ndarray, dict[str, str]]:
    """Pixels uint8 [H, W, 3] of a PNG file, and its texts by keyword.

    Raises:
      OSError, ValueError: if it is not one.
    """
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        image.load()
        return np.asarray(image.convert("RGB")), dict(getattr(image, "text", {}))


def _eight_bits(name: str, tensor: Tensor) -> np.ndarray:
    values = tensor.detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(values).all():
        raise InputError(f"{name} holds NaN or infinity: look for the node that made them")
    # Rounded, so that the 8-bit values that ComfyUI divided by 255 come out again.
    return (values.clip(0, 1) * 255).round().astype(np.uint8)
