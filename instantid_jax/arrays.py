"""Arrays that callers give: numbers, NumPy's and JAX's arrays, torch's tensors."""

from typing import Any

import numpy as np

from instantid_jax.errors import InputError


def float_array(name: str, value: Any) -> np.ndarray:
    """A float32 array on the host; numbers too large for it become infinite.

    Args:
      name: names the value in messages.
      value: may be a torch tensor of any dtype and device, with gradients or without.
    Raises:
      InputError: if it does not consist of numbers, or not of equally long lists.
    """
    if hasattr(value, "detach"):  # torch's, without importing it
        value = value.detach().cpu().float()
    try:
        array = np.asarray(value)
        if np.iscomplexobj(array):
            raise TypeError("it has complex ones")
        with np.errstate(over="ignore"):
            return array.astype(np.float32, copy=False)
    # Whole numbers of more than 308 digits overflow.
    except (OverflowError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is not an array of numbers: {error}") from error
