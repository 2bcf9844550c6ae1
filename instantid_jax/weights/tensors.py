"""Lazily read tensors."""

import dataclasses
from collections.abc import Callable

import ml_dtypes
import numpy as np

FLOATS = tuple(np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16))
# float16 has all their values.
FLOAT8 = tuple(np.dtype(t) for t in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2))


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor in some file.

    Attributes:
      shape, dtype: known without reading.
      read: reads the values; does not cache them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def transpose(self, axes: tuple[int, ...]) -> "LazyTensor":
        shape = tuple(self.shape[axis] for axis in axes)
        return LazyTensor(shape, self.dtype, lambda: self.read().transpose(axes))

    def reshape(self, shape: tuple[int, ...]) -> "LazyTensor":
        return LazyTensor(shape, self.dtype, lambda: self.read().reshape(shape))

    def astype(self, dtype: np.dtype) -> "LazyTensor":
        return LazyTensor(self.shape, dtype, lambda: self.read().astype(dtype))

    def rows(self, start: int, stop: int) -> "LazyTensor":
        """Rows `start` to `stop` of the first axis."""
        shape = (stop - start, *self.shape[1:])
        return LazyTensor(shape, self.dtype, lambda: self.read()[start:stop])


# By name, in the order of the file.
Tensors = dict[str, LazyTensor]
