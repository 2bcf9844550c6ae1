"""Sizes of images, (height, width), that a server offers."""

import math
from collections.abc import Sequence

Size = tuple[int, int]


def nearest(sizes: Sequence[Size], like: Size) -> Size:
    """The size whose aspect ratio is nearest to another one's."""

    def distance(size: Size) -> float:
        return abs(math.log(size[0] / size[1]) - math.log(like[0] / like[1]))

    return min(sizes, key=distance)
