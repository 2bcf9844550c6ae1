"""The start of sampling: unit noise, drawn from the seeds or given."""

from collections.abc import Sequence

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.request.request import Request


def resolve_noise(requests: Sequence[Request], shape: tuple[int, int, int]) -> np.ndarray | None:
    """Given noise [images, H, W, C] float32; None where the seeds draw it.

    Args:
      shape: (H, W, C) of an image's latents.
    """
    given = [request.latents is not None for request in requests]
    if not any(given):
        return None
    if not all(given):
        raise InputError("some requests of a batch give latents, others none: run them separately")
    for request in requests:
        expected = (request.num_images_per_prompt, *shape)
        if request.latents.shape != expected:
            raise InputError(
                f"latents have shape {list(request.latents.shape)}: expected {list(expected)}, "
                "unit-variance noise with channels last"
            )
    return np.concatenate([request.latents for request in requests])
