"""Uploads: bytes that nobody vouches for."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from instantid_jax.serving.http.errors import FieldError
from instantid_jax.serving.http.uploads import read_mask, read_upload
from tests.serving.http.conftest import png

PIXELS = 10_000


def refused(data: bytes, words: str) -> None:
    with pytest.raises(FieldError, match=words) as raised:
        read_upload(data, "image[1]", PIXELS)
    assert raised.value.param == "image" and "image[1]" in str(raised.value)


def bomb(side: int) -> bytes:
    """A small PNG that says that it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10**6), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_usual_formats_are_read(kind):
    pixels = read_upload(png("white", (20, 10), kind=kind), "image", PIXELS)
    assert pixels.shape == (10, 20, 3) and pixels.min() > 250


def test_photos_are_turned_upright():
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[274] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert read_upload(buffer.getvalue(), "image", PIXELS).shape == (20, 10, 3)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM", "EPS", "TGA", "ICO"])
def test_other_formats_are_refused(kind):
    refused(png("red", (16, 16), kind=kind), "not an image in a format that is read")


@pytest.mark.parametrize("side", [101, 2**15, 2**31 - 1])
def test_bombs_are_refused_by_their_header(side):
    refused(bomb(side), "more than 10,000 pixels")


def test_pillows_warnings_of_bombs_are_not_logged(recwarn):
    """They would be the clients' to cause; from 90 million pixels on there is one."""
    refused(bomb(12_000), "more than 10,000 pixels")
    assert not recwarn.list


def test_damage_is_refused():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for kind in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, kind)
        whole = buffer.getvalue()
        refused(whole[: len(whole) // 2], "damaged|not an image")
    for data in (b"", b"\x89PNG\r\n\x1a\n", b"/etc/passwd", b"\xff\xd8\xff"):
        refused(data, "damaged|not an image")


def test_masks_are_white_or_transparent_where_they_count():
    gray = Image.new("L", (4, 2))
    gray.putpixel((1, 0), 255)
    buffer = io.BytesIO()
    gray.save(buffer, "PNG")
    assert read_mask(buffer.getvalue(), "mask", PIXELS)[..., 0].tolist() == [
        [0, 255, 0, 0],
        [0] * 4,
    ]
    photo = Image.new("RGBA", (4, 2), (200, 10, 10, 255))
    photo.putpixel((1, 0), (200, 10, 10, 0))
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    mask = read_mask(buffer.getvalue(), "mask", PIXELS)
    assert mask.shape == (2, 4, 3)
    assert mask[..., 0].tolist() == [[0, 255, 0, 0], [0] * 4]
