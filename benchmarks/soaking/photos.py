"""Files that clients upload: drawn portraits in each format, damaged ones, and bombs."""

import io
import random
import struct
import zlib

from PIL import Image, features

from benchmarks.soaking.server import EMBEDDED, LIMITS

FORMATS = ("PNG", "JPEG", "WEBP", *(("AVIF",) if features.check("avif") else ()))
PORTRAITS = tuple(
    Image.open(EMBEDDED / name).convert("RGB") for name in ("portrait.png", "portrait-2.png")
)
SMALLEST, LARGEST = 96, 600


def portrait(rng: random.Random, kind: str = "PNG", side: int | None = None) -> bytes:
    """A drawn portrait as a file, of a random size unless `side` is given."""
    side = side or rng.randint(SMALLEST, LARGEST)
    return save(rng.choice(PORTRAITS).resize((side, side)), kind)


def save(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def truncated(rng: random.Random) -> bytes:
    """The beginning of a portrait, with its header or without."""
    whole = portrait(rng, rng.choice(FORMATS))
    # Less than that is missing, and some decoders do without it.
    return whole[: rng.randint(0, int(0.8 * len(whole)))]


def damaged(rng: random.Random) -> bytes:
    """A portrait some of whose bytes were changed; it may still be readable."""
    data = bytearray(portrait(rng, rng.choice(FORMATS)))
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def no_image(rng: random.Random) -> bytes:
    """A file that is not an image, or an image of a format that is not read."""
    kinds = (
        lambda: rng.randbytes(rng.randint(0, 5000)),
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        lambda: b"PK\x03\x04" + rng.randbytes(500),
        lambda: b"%PDF-1.7\n" + rng.randbytes(500),
        lambda: b"\x89PNG\r\n\x1a\n",
        lambda: b"\xff\xd8\xff",
        lambda: b"",
        lambda: save(PORTRAITS[0], rng.choice(("GIF", "TIFF", "BMP", "ICO", "PPM"))),
    )
    return rng.choice(kinds)()


def bomb(rng: random.Random) -> bytes:
    """A small file that claims, or holds, more than can be decoded."""
    kinds = (
        # A header without anything behind it.
        lambda: _png(rng.choice((60_000, 2**31 - 1)), 60_000),
        # Whole files of many equal pixels: kilobytes that would be gigabytes.
        lambda: _png(12_000, 12_000, depth=1, rows=True),
        lambda: save(Image.new("L", (1000, 1001)), "PNG"),
        lambda: save(Image.new("RGB", (3000, 3000)), "WEBP"),
        lambda: _jpeg(65_500),
        # A text that unpacks to far more than the image.
        lambda: _png(64, 64, text=64 * 2**20),
        # A file of 64 x 64 that has far more pixels than that.
        lambda: _png(64, 64, spare=64 * 2**20),
    )
    return rng.choice(kinds)()


def largest(rng: random.Random) -> bytes:
    """As many pixels as are allowed, in a small file."""
    side = int(LIMITS.pixels**0.5)
    return save(PORTRAITS[0].resize((side, side)), rng.choice(("JPEG", "WEBP")))


def _png(
    width: int, height: int, depth: int = 8, rows: bool = False, text: int = 0, spare: int = 0
) -> bytes:
    """A gray PNG.

    Args:
      rows: write all rows, and not only one.
      text: bytes that a text of it unpacks to.
      spare: bytes that follow its pixels.
    """
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    row = bytes(1 + (width * depth + 7) // 8) if rows else bytes(1 + min(width, 1000))
    pixels = _deflated(len(row) * (height if rows or spare else 1) + spare)
    texts = _chunk(b"zTXt", b"Comment\0\0" + _deflated(text)) if text else b""
    chunks = _chunk(b"IHDR", header) + texts + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _deflated(count: int) -> bytes:
    """That many zeros."""
    packer, block = zlib.compressobj(), bytes(2**20)
    parts = [packer.compress(block) for _ in range(count // len(block))]
    return b"".join((*parts, packer.compress(bytes(count % len(block))), packer.flush()))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _jpeg(side: int) -> bytes:
    """A JPEG whose header claims another size."""
    data = bytearray(save(PORTRAITS[0], "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)
