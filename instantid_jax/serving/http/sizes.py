"""Sizes: which the service makes, and which one a request gets."""

import dataclasses

from instantid_jax.serving.http.errors import FieldError
from instantid_jax.serving.sizes import nearest

AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of images, (height, width) in pixels.

    Attributes:
      compiled: that are compiled beforehand; the first is made where nothing suggests another.
      others: whether others are compiled when they are asked for.
      pixels: of those, at most.
    """

    compiled: tuple[tuple[int, int], ...]
    others: bool = False
    pixels: int = 2048 * 2048

    def parse(self, value: str) -> tuple[int, int] | None:
        """The size that OpenAI's "WIDTHxHEIGHT" says; None for "auto".

        Raises:
          FieldError: for anything else, and a size that is not made.
        """
        if value == AUTO:
            return None
        width, _, height = value.partition("x")
        if not all(
            side.isdecimal() and side.isascii() and len(side) < 6 for side in (width, height)
        ):
            raise FieldError(f"size={value[:40]!r}: expected {self}", "size")
        return self.check(int(height), int(width))

    def check(self, height: int, width: int) -> tuple[int, int]:
        """A size that is made.

        Raises:
          FieldError: if it is not.
        """
        size = height, width
        if size in self.compiled:
            return size
        if not self.others:
            raise FieldError(
                f"size={width}x{height} is not served here: expected {self}", "size", "invalid_size"
            )
        if height % 8 or width % 8 or not 64 <= min(size) or height * width > self.pixels:
            raise FieldError(
                f"size={width}x{height}: expected multiples of 8, at least 64 and at most "
                f"{self.pixels:,} pixels",
                "size",
                "invalid_size",
            )
        return size

    def nearest(self, like: tuple[int, int] | None) -> tuple[int, int]:
        """The compiled size whose aspect ratio is nearest to another size's.

        Args:
          like: (height, width); None suggests nothing.
        """
        return self.compiled[0] if like is None else nearest(self.compiled, like)

    def __str__(self) -> str:
        sizes = [f"{width}x{height}" for height, width in self.compiled]
        return ", ".join([*sizes, AUTO]) + (", or another size" if self.others else "")
