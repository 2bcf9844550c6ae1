"""Sizes of images that the page offers."""

import math
import re
from collections.abc import Sequence

from instantid_jax.errors import InputError
from instantid_jax.serving.sizes import Size, nearest

LIKE_PHOTO = "as the photo"
# Width by height.
RATIOS = (1.0, 3 / 4, 4 / 3, 2 / 3, 3 / 2, 9 / 16, 16 / 9)
# From it on, sides are multiples of 64.
LARGE = 512


def usual_sizes(side: int) -> list[Size]:
    """Sizes of about `side` x `side` pixels, the square first."""
    multiple = 64 if side >= LARGE else 16
    sizes = []
    for ratio in RATIOS:
        sides = side / math.sqrt(ratio), side * math.sqrt(ratio)
        height, width = (max(multiple, round(each / multiple) * multiple) for each in sides)
        if (height, width) not in sizes:
            sizes.append((height, width))
    return sizes


def size_name(size: Size) -> str:
    """WIDTH x HEIGHT, as the page shows it."""
    return f"{size[1]} x {size[0]}"


def parse_size(name: str, sizes: Sequence[Size], photo: Size | None) -> Size:
    """The size of a name.

    Args:
      sizes: those that are offered; the first is made where the photo suggests none.
      photo: size of the photo; None if there is none.
    Raises:
      InputError: if the name is not one of a size.
    """
    if name == LIKE_PHOTO:
        return sizes[0] if photo is None else nearest(sizes, photo)
    found = re.fullmatch(r"\s*(\d{1,5})\s*[x×]\s*(\d{1,5})\s*", str(name))
    if found is None:
        raise InputError(f"size={str(name)[:40]!r}: expected WIDTH x HEIGHT, such as 1024 x 768")
    return int(found[2]), int(found[1])
