"""Uploaded images: bytes that nobody vouches for, as arrays."""

import io
import threading
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from instantid_jax.errors import InputError
from instantid_jax.images import DAMAGE, read_image
from instantid_jax.serving.http.errors import FieldError

# Other formats have decoders that are better kept away from strangers' bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")
# Reading collects Pillow's warnings, which Python keeps for the whole process.
_reading = threading.Lock()


def read_upload(data: bytes, name: str, pixels: int) -> np.ndarray:
    """An upright image, [H, W, 3] uint8 RGB.

    Args:
      name: names the field in messages.
      pixels: the most that are decoded.
    Raises:
      FieldError: for other formats, damage, and more pixels.
    """
    with _reading:
        return _pixels(_opened(data, name, pixels), name)


def read_mask(data: bytes, name: str, pixels: int) -> np.ndarray:
    """A mask, [H, W, 3] uint8, white where it counts.

    An image with transparency counts where it is transparent, as in OpenAI's API.

    Raises:
      FieldError: as `read_upload`.
    """
    with _reading:
        image = _opened(data, name, pixels)
        if image.has_transparency_data:
            try:
                alpha = ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")
            except DAMAGE as error:
                raise _damaged(name, error) from error
            if np.asarray(alpha).min() < 255:
                image = ImageOps.invert(alpha)
        return _pixels(image, name)


def named(name: str, files: Sequence[object]) -> list[str]:
    """A name for each of several files of a field."""
    return [name] if len(files) == 1 else [f"{name}[{i}]" for i in range(len(files))]


def _opened(data: bytes, name: str, pixels: int) -> Image.Image:
    Image.init()
    known = [each for each in FORMATS if each in Image.OPEN]
    try:
        # Reads the header; nothing is decoded before its size is known.
        image = Image.open(io.BytesIO(data), formats=known)
    except Image.DecompressionBombError as error:
        raise _too_large(name, pixels) from error
    except UnidentifiedImageError as error:
        raise FieldError(
            f"{name} is not an image in a format that is read: expected one of {', '.join(known)}",
            _field(name),
            "invalid_image",
        ) from error
    except DAMAGE as error:
        raise _damaged(name, error) from error
    if image.width * image.height > pixels:
        raise _too_large(name, pixels)
    return image


def _pixels(image: Image.Image, name: str) -> np.ndarray:
    try:
        return read_image(image)
    except InputError as error:
        message = str(error).replace("the image", name, 1)
        raise FieldError(message, _field(name), "invalid_image") from error


def _too_large(name: str, pixels: int) -> FieldError:
    return FieldError(
        f"{name} has more than {pixels:,} pixels: make it smaller", _field(name), "image_too_large"
    )


def _damaged(name: str, error: Exception) -> FieldError:
    reason = str(error).strip() or type(error).__name__
    return FieldError(
        f"{name} is damaged ({reason}): get an intact copy, or save it again as JPEG or PNG",
        _field(name),
        "invalid_image",
    )


def _field(name: str) -> str:
    return name.partition("[")[0]
