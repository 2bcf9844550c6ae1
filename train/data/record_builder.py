"""Builds a record from an image, its face and its metadata."""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from instantid_jax.face.face import Face
from instantid_jax.images import read_image
from train.data.buckets import Size
from train.data.faces import sharpness
from train.data.record import CorruptRecord, Record, image_hash, is_whole_jpeg
from train.data.sidecars import Sidecars

_ORIENTATION = 0x0112  # the EXIF tag
_LONGEST_JPEG = 65_500  # libjpeg's limit, in pixels
_LARGEST_SIDE = 2**31 - 1  # what a record's int32 holds


# The options of `train.data.build` and `train.prepare` that decide over a rejection, by its reason.
DECIDING_OPTIONS = {
    "no face file": "--faces",
    "wrong embedding size": "--embedding-size",
    "image too small": "--min-side",
    "low detection score": "--min-det-score",
    "face too small": "--min-face-share",
    "several faces": "--min-face-share",
    "face blurred": "--min-sharpness",
}


class Rejected(Exception):
    """An image that is left out of the dataset; the message is one of a few reasons."""


class StoredImage(NamedTuple):
    """An image as stored.

    Attributes:
      jpeg: upright RGB JPEG bytes.
      pixels: uint8 [H, W, 3], RGB.
    """

    jpeg: bytes
    pixels: np.ndarray

    @property
    def size(self) -> Size:
        height, width = self.pixels.shape[:2]
        return height, width


def upright_jpeg(data: bytes) -> StoredImage:
    """Converts an image file to an upright RGB JPEG.

    Files that already are one are kept unchanged; others are encoded at quality 95 without chroma
    subsampling.

    Raises:
      Rejected: if it is not an image file, or is damaged.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            upright = opened.getexif().get(_ORIENTATION, 1) == 1
            keep = opened.format == "JPEG" and opened.mode == "RGB" and upright
            pixels = read_image(opened)
    except MemoryError:
        raise
    # Files from the web make Pillow and its plugins raise almost anything.
    except Exception as error:
        raise Rejected("unreadable image") from error
    if keep and is_whole_jpeg(data):
        return StoredImage(data, pixels)
    if max(pixels.shape[:2]) > _LONGEST_JPEG:
        raise Rejected("image side too long")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95, subsampling=0)
    return StoredImage(buffer.getvalue(), pixels)


def record_of(
    key: str,
    image: StoredImage,
    face: Face,
    *,
    captions: Mapping[str, str],
    notes: Mapping[str, Any],
    identity: str = "",
    references: np.ndarray,
) -> Record:
    """Makes the record of an image.

    Args:
      face: in pixels of the image; must have a box.
      notes: metadata by img2dataset's names.
      references: [K, E] embeddings of other photos of the person.
    Raises:
      Rejected: if training could not use it.
    """
    record = Record(
        image=image.jpeg,
        captions={_utf8(name): _utf8(text) for name, text in captions.items()},
        embedding=face.embedding,
        kps=face.kps,
        bbox=face.bbox,
        det_score=float(face.det_score or 0.0),
        original_size=_original_size(notes, image.size),
        sharpness=sharpness(image.pixels, face.bbox),
        reference_embeddings=references,
        identity=_utf8(identity or str(notes.get("identity") or "")),
        nsfw=_utf8(str(notes.get("NSFW") or "")),
        license=_utf8(str(notes.get("LICENSE") or "")),
        key=_utf8(key),
        sha256=image_hash(image.jpeg),
    )
    try:
        record.check()
    except CorruptRecord as error:
        raise Rejected("unusable face") from error
    return record


def captions_of(sidecars: Sidecars, source: str) -> dict[str, str]:
    """All captions that are not empty by source: the metadata's `captions`, and under `source`."""
    noted = sidecars.notes.get("captions")
    captions = dict(noted) if isinstance(noted, Mapping) else {}
    if sidecars.caption is not None:
        captions[source] = sidecars.caption
    texts = {str(name): str(text or "").strip() for name, text in captions.items()}
    return {name: text for name, text in texts.items() if text}


def _utf8(text: str) -> str:
    """Escapes lone surrogates, which file names and JSON may contain but UTF-8 cannot encode."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _original_size(notes: Mapping[str, Any], size: Size) -> Size:
    """The size in the metadata, or by default the image's own."""
    height, width = notes.get("original_height"), notes.get("original_width")
    if not (isinstance(height, int) and isinstance(width, int)):
        return size
    if min(height, width) < 1 or max(height, width) > _LARGEST_SIDE:
        return size
    # The metadata may predate the EXIF rotation.
    turned = (height > width) != (size[0] > size[1]) and height != width and size[0] != size[1]
    return (width, height) if turned else (height, width)
