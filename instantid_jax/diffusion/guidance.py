"""Classifier-free guidance."""

import jax
import jax.numpy as jnp


def classifier_free_guidance(uncond_and_cond: jax.Array, scale: float | jax.Array) -> jax.Array:
    """Pushes the prediction away from the negative prompt: u + s (c - u), in float32.

    Args:
      uncond_and_cond: [2B, ...], the network's output, negative prompts first.
      scale: scalar or [B]. 1 gives the positive prediction alone.
    Returns:
      [B, ...] float32.
    Raises:
      ValueError: if the leading axis is odd, or `scale` is neither a scalar nor [B].
    Source: Ho & Salimans 2022, eq. 6 with s = 1 + w, as in diffusers'
      StableDiffusionXLControlNetPipeline.
    """
    if uncond_and_cond.shape[0] % 2:
        raise ValueError(
            f"guidance needs [negative, positive] along the first axis: got {uncond_and_cond.shape}"
        )
    batch = uncond_and_cond.shape[0] // 2
    scale = jnp.asarray(scale, jnp.float32)
    if scale.shape not in ((), (batch,)):
        raise ValueError(f"guidance scale must be a scalar or [{batch}]: got {scale.shape}")
    if scale.ndim:
        scale = scale.reshape((batch,) + (1,) * (uncond_and_cond.ndim - 1))
    uncond, cond = jnp.split(uncond_and_cond.astype(jnp.float32), 2)  # [B, ...] each
    return uncond + scale * (cond - uncond)
