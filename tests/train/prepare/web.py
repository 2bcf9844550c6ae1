"""A small web: img2dataset tars with photos of red squares and with defective files."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tests.face import synthetic_pack

# Makes pixels [H, W, 3] from a number.
Picture = Callable[[int], np.ndarray]
SIZE = (128, 160)
ONE = (20, 30, 52, 1)


def photo(*faces: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    return synthetic_pack.photo(*size, *faces)


def encoded(pixels: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format=kind, **options)
    return buffer.getvalue()


def rotated(pixels: np.ndarray) -> bytes:
    """A rotated image with its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(np.ascontiguousarray(np.rot90(pixels)), quality=95, exif=exif)


def animated(pixels: np.ndarray) -> bytes:
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def alpha(pixels: np.ndarray) -> bytes:
    return encoded(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]), "PNG", "RGBA")


def kinds_of(
    one: Picture, nobody: Picture, three: Picture, tiny: Picture
) -> dict[str, tuple[str, Callable[[int], bytes]]]:
    """Kinds of files by name: extension, and a function from a number to bytes."""
    return {
        # kept
        "plain": ("jpg", lambda n: encoded(one(n), quality=95)),
        "alpha": ("png", lambda n: alpha(one(n))),
        "cmyk": ("jpg", lambda n: encoded(one(n), mode="CMYK", quality=95)),
        "rotated": ("jpg", lambda n: rotated(one(n))),
        "animated": ("gif", lambda n: animated(one(n))),
        # rejected
        "torn": ("jpg", lambda n: encoded(one(n))[:-300]),
        "empty": ("jpg", lambda n: b""),
        "words": ("jpg", lambda n: b"<html>404</html>"),
        "nobody": ("jpg", lambda n: encoded(nobody(n))),
        "three": ("jpg", lambda n: encoded(three(n))),
        "tiny": ("jpg", lambda n: encoded(tiny(n))),
    }


KINDS = kinds_of(
    one=lambda n: photo((20, 30, 52, n)),
    nobody=lambda n: photo(),
    three=lambda n: photo((8, 8, 36, n), (10, 100, 36, n + 1), (80, 60, 36, n + 2)),
    tiny=lambda n: photo((4, 4, 26, n), size=(40, 50)),
)
REASONS = {
    "torn": "unreadable image",
    "empty": "unreadable image",
    "words": "unreadable image",
    "nobody": "no face",
    "three": "several faces",
    "tiny": "image too small",
}


def write_tars(
    folder: Path, tars: int, each: int, cut: bool = True, kinds: Mapping = KINDS
) -> Counter[str]:
    """Writes tars of `each` images of all kinds; returns the expected counts by outcome.

    Args:
      cut: truncate the last tar in the middle of an image.
    """
    folder.mkdir(parents=True)
    expected: Counter[str] = Counter()
    names = list(kinds)
    for number in range(tars):
        path = folder / f"{number:05}.tar"
        with tarfile.open(path, "w") as tar:
            for i in range(each):
                name = names[(number + i) % len(names)]
                kind, make = kinds[name]
                key = f"{number:05}{i:04}"
                notes = {"key": key, "NSFW": "UNLIKELY", "LICENSE": "CC0", "kind": name}
                put(tar, f"{key}.{kind}", make(100 * number + i))
                put(tar, f"{key}.txt", f"a {name} picture".encode())
                put(tar, f"{key}.json", json.dumps(notes).encode())
                expected[REASONS.get(name, "kept")] += 1
            # A failed download leaves only metadata.
            expected["no image"] += 1
            put(tar, f"{number:05}9999.json", b"{}")
        # img2dataset repeats the metadata in parquet files, which have no images.
        (folder / f"{number:05}.parquet").write_bytes(b"PAR1")
    if cut:
        with tarfile.open(path) as tar:
            members = [m for m in tar.getmembers() if not m.name.endswith(("txt", "json"))]
        last = next(m for m in reversed(members) if m.size > 600)
        lost = [m for m in members if m.offset > last.offset]
        for member in (last, *lost):
            kind = names[(tars - 1 + int(Path(member.name).stem[5:])) % len(names)]
            expected[REASONS.get(kind, "kept")] -= 1
        expected["truncated tar member"] += 1
        expected["no image"] -= 1
        with path.open("r+b") as file:
            file.truncate(last.offset_data + last.size // 2)
    return +expected


def put(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
