"""The names that a PyTorch checkpoint's pickle may use, and what they stand for here."""

import dataclasses

import ml_dtypes
import numpy as np

STORAGES = {
    ("torch", "DoubleStorage"): np.dtype(np.float64),
    ("torch", "FloatStorage"): np.dtype(np.float32),
    ("torch", "HalfStorage"): np.dtype(np.float16),
    ("torch", "BFloat16Storage"): np.dtype(ml_dtypes.bfloat16),
    ("torch", "LongStorage"): np.dtype(np.int64),
    ("torch", "IntStorage"): np.dtype(np.int32),
    ("torch", "ShortStorage"): np.dtype(np.int16),
    ("torch", "CharStorage"): np.dtype(np.int8),
    ("torch", "ByteStorage"): np.dtype(np.uint8),
    ("torch", "BoolStorage"): np.dtype(np.bool_),
    # Bytes, whose meaning each tensor gives.
    ("torch.storage", "UntypedStorage"): np.dtype(np.uint8),
}

# dtypes newer than typed storages.
DTYPES = {
    ("torch", "float8_e4m3fn"): np.dtype(ml_dtypes.float8_e4m3fn),
    ("torch", "float8_e5m2"): np.dtype(ml_dtypes.float8_e5m2),
}

NUMPY_SCALARS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")

# Meaning of the common refused names.
KNOWN = {
    ("torch", "float8_e4m3fnuz"): "a float8 tensor in a format that only some accelerators have",
    ("torch", "float8_e5m2fnuz"): "a float8 tensor in a format that only some accelerators have",
    ("torch", "uint16"): "an unsigned integer tensor",
    ("torch", "uint32"): "an unsigned integer tensor",
    ("torch", "uint64"): "an unsigned integer tensor",
    ("torch._utils", "_rebuild_qtensor"): "a quantized tensor",
    ("torch._utils", "_rebuild_sparse_tensor"): "a sparse tensor",
    ("torch._utils", "_rebuild_nested_tensor"): "a nested tensor",
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): "a tensor without data",
    ("torch", "ComplexFloatStorage"): "a complex tensor",
    ("torch", "ComplexDoubleStorage"): "a complex tensor",
    ("numpy.core.multiarray", "_reconstruct"): "a numpy array",
    ("numpy._core.multiarray", "_reconstruct"): "a numpy array",
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """`elements` values of `dtype`, stored in the archive under `key`."""

    key: str
    dtype: np.dtype
    elements: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def extent(self) -> int:
        """Number of storage elements from the first to the last, inclusive."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))


@dataclasses.dataclass(frozen=True)
class Name:
    """An allowed function or class, as data."""

    module: str
    name: str
