"""Uploaded files: images and face files that nobody vouches for."""

import threading
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.images import DAMAGE, read_image

# Other formats have decoders that are better kept away from strangers' files.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")
# The most of an image that is decoded.
PIXELS = 40_000_000
# A face has some thousand bytes.
FACE_BYTES = 2**20
# Reading collects Pillow's warnings, which Python keeps for the whole process.
_reading = threading.Lock()


def read_upload(path: str) -> np.ndarray:
    """An upright image, [H, W, 3] uint8 RGB; messages have the file's name without its folder.

    Raises:
      InputError: for other formats than `FORMATS`, damage, and more than `PIXELS`.
    """
    name = Path(path).name
    with _reading:
        try:
            check_image(path)
            return read_image(path)
        except InputError as error:
            raise InputError(str(error).replace(path, name)) from error


def check_image(path: str) -> None:
    """Reads the header of an image file, and decodes nothing.

    Raises:
      InputError: for other formats than `FORMATS`, and more than `PIXELS`.
    """
    Image.init()
    known = [each for each in FORMATS if each in Image.OPEN]
    try:
        with Image.open(path, formats=known) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = PIXELS + 1
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not an image in a format that is read: expected one of {', '.join(known)}"
        ) from error
    except DAMAGE as error:
        raise InputError(f"{path} is damaged ({error}): get an intact copy") from error
    if pixels > PIXELS:
        raise InputError(f"{path} has more than {PIXELS:,} pixels: make it smaller")


def read_face_file(path: str) -> Face:
    """A face that `instantid embed` or this page wrote.

    Raises:
      InputError: if it is not one, or larger than faces are.
    """
    name = Path(path).name
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (OSError, zipfile.BadZipFile):
        size = 0
    if size > FACE_BYTES:
        raise InputError(f"{name} is not a face file: it holds {size:,} bytes")
    try:
        return Face.load(path)
    except InputError as error:
        raise InputError(str(error).replace(path, name)) from error
