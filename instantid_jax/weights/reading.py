"""Reads lazy tensors onto devices, one at a time."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.params import Params
from instantid_jax.weights.tensors import Tensors


def read_params(
    tensors: Tensors, dtype: jnp.dtype | None, chosen: Collection[str] | None = None
) -> Params:
    """Reads lazy tensors in our layout onto the default device, one at a time.

    Args:
      dtype: dtype of the result; None keeps each tensor's dtype.
      chosen: names of those to read; None reads all.
    """
    params = {}
    for name in tensors if chosen is None else chosen:
        tensor = tensors[name]
        kept = tensor.dtype if dtype is None else np.dtype(dtype)
        try:
            # jnp.asarray would compile a program per shape.
            params[name] = jax.device_put(_aligned_copy(tensor.read(), kept))
        except FloatingPointError as error:
            raise InputError(
                f"{name} has values too large for {kept}: choose bfloat16 or float32"
            ) from error
    return params


def _aligned_copy(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A contiguous copy, aligned so that JAX's CPU backend adopts the memory without a copy.

    JAX copies an unaligned array, with two extra copies at the peak.

    Raises:
      FloatingPointError: if a number is too large for `dtype`.
    """
    alignment = 64
    size = value.size * dtype.itemsize
    memory = np.empty(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    copy = memory[start : start + size].view(dtype).reshape(value.shape)
    with np.errstate(over="raise"):
        copy[...] = value
    return copy
