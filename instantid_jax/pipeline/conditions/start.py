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
    given = [request.latents for request in requests if request.latents is not None]
    if not given:
        return None
    if len(given) < len(requests):
        raise InputError("some requests of a batch give latents, others none: run them separately")
    for request, latents in zip(requests, given, strict=True):
        expected = (request.num_images_per_prompt, *shape)
        if latents.shape != expected:
            raise InputError(
                f"latents have shape {list(latents.shape)}: expected {list(expected)}, "
                "unit-variance noise with channels last"
            )
    return np.concatenate(given)
