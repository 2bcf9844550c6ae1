"""Uploaded images of a request's fields, as arrays."""

import contextlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import ImageOps

from instantid_jax.errors import InputError
from instantid_jax.images import DAMAGE, read_image
from instantid_jax.serving.http.errors import FieldError
from instantid_jax.serving.uploads import UploadError, damaged, open_upload, reading


def read_upload(data: bytes, name: str, pixels: int) -> np.ndarray:
    """An upright image, [H, W, 3] uint8 RGB.

    Args:
      name: names the field in messages.
      pixels: the most that are decoded.
    Raises:
      FieldError: for other formats, damage, and more pixels.
    """
    with _reading_field(name):
        return read_image(open_upload(io.BytesIO(data), name, pixels))


def read_mask(data: bytes, name: str, pixels: int) -> np.ndarray:
    """A mask, [H, W, 3] uint8, white where it counts.

    An image with transparency counts where it is transparent, as in OpenAI's API.

    Raises:
      FieldError: as `read_upload`.
    """
    with _reading_field(name):
        image = open_upload(io.BytesIO(data), name, pixels)
        if image.has_transparency_data:
            try:
                alpha = ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")
            except DAMAGE as error:
                raise damaged(name, error) from error
            if np.asarray(alpha).min() < 255:
                image = ImageOps.invert(alpha)
        return read_image(image)


def named(name: str, files: Sequence[object]) -> list[str]:
    """A name for each of several files of a field."""
    return [name] if len(files) == 1 else [f"{name}[{i}]" for i in range(len(files))]


@contextlib.contextmanager
def _reading_field(name: str) -> Iterator[None]:
    """Raises a FieldError for an image that cannot be used."""
    field = name.partition("[")[0]
    try:
        with reading:
            yield
    except UploadError as error:
        raise FieldError(str(error), field, error.code) from error
    except InputError as error:
        message = str(error).replace("the image", name, 1)
        raise FieldError(message, field, "invalid_image") from error
