"""Classifier-free guidance."""

# jax.numpy's stubs leave the argument `device` untyped.
# pyright: reportUnknownMemberType=false

import jax
import jax.numpy as jnp

from instantid_jax.diffusion.rules import per_image


def classifier_free_guidance(uncond_and_cond: jax.Array, scale: float | jax.Array) -> jax.Array:
    """Pushes the prediction away from the negative prompt: u + s (c - u), in float32.

    Args:
      uncond_and_cond: [2B, ...], the network's output, negative prompts first.
      scale: [B], one per image, or a single one; 1 gives the positive prediction.
    Returns:
      [B, ...] float32.
    Raises:
      ValueError: if the leading axis is odd.
    Source: Ho & Salimans 2022, eq. 6 with s = 1 + w, as in diffusers'
      StableDiffusionXLControlNetPipeline.
    """
    if uncond_and_cond.shape[0] % 2:
        raise ValueError(
            f"guidance needs [negative, positive] along the first axis: got {uncond_and_cond.shape}"
        )
    uncond, cond = jnp.split(uncond_and_cond.astype(jnp.float32), 2)  # [B, ...] each
    return uncond + per_image(jnp.atleast_1d(scale), cond) * (cond - uncond)
