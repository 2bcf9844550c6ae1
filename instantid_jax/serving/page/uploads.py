"""Uploaded files: images and face files that nobody vouches for."""

import zipfile
from pathlib import Path

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.images import read_image
from instantid_jax.serving.uploads import open_upload, reading

# The most of an image that is decoded.
PIXELS = 40_000_000
# A face has some thousand bytes.
FACE_BYTES = 2**20


def read_upload(path: str) -> np.ndarray:
    """An upright image, [H, W, 3] uint8 RGB; messages have the file's name without its folder.

    Raises:
      InputError: for formats that are not read, damage, and more than `PIXELS`.
    """
    name = Path(path).name
    with reading:
        try:
            check_image(path)
            return read_image(path)
        except InputError as error:
            raise InputError(str(error).replace(path, name)) from error


def check_image(path: str) -> None:
    """Reads the header of an image file, and decodes nothing; call it while `reading` is held.

    Raises:
      InputError: for formats that are not read, damage, and more than `PIXELS`.
    """
    open_upload(path, path, PIXELS).close()


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
