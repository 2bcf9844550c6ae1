"""Guidance: what becomes of the network's outputs with, without and with perturbed conditions.

All forms are computed in every guided step, from numbers that are data, so a change of them
compiles nothing. Numbers that turn a form off leave every bit as it is without that form.
"""

# jax.numpy's stubs leave the argument `device` untyped.
# pyright: reportUnknownMemberType=false

from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.diffusion.rules import per_image

Array = TypeVar("Array", bound=jax.Array | np.ndarray, covariant=True)

PIXELS, EACH = (1, 2), (1, 2, 3)


class Guidance(NamedTuple, Generic[Array]):
    """The numbers of one step, each [B] float32.

    With x the networks' input and f their output, x_0 is proportional to f + `denoised_offset` x,
    and the velocity to f + `velocity_offset` x.

    Attributes:
      scale: of classifier-free guidance; 1 gives the positive prediction.
      apg_eta: share of the difference's part along the positive x_0 that is kept; 1 keeps all.
      apg_threshold: largest norm of the difference between the outputs; infinite allows all.
      mimic_scale: the scale whose range of x_0 the result has; `scale` changes nothing.
      pag_scale: of perturbed-attention guidance; not used without perturbed rows.
      rescale: share of the output's rescaling to the positive one's deviation; 0 is off.
      rescale_v: the same for the velocity.
      denoised_offset, velocity_offset: see above.
    """

    scale: Array
    apg_eta: Array
    apg_threshold: Array
    mimic_scale: Array
    pag_scale: Array
    rescale: Array
    rescale_v: Array
    denoised_offset: Array
    velocity_offset: Array


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


def guide(
    output: jax.Array,
    sample: jax.Array,
    numbers: Guidance[jax.Array],
    *,
    negative: bool,
    perturbed: bool,
) -> jax.Array:
    """Combines the rows of each image.

    Args:
      output: [R, H, W, C], the network's output: negative rows if there are any, positive rows,
        perturbed rows if there are any.
      sample: [B, H, W, C], the networks' input.
    Returns:
      [B, H, W, C] float32.
    """
    rows = jnp.split(output.astype(jnp.float32), 1 + negative + perturbed)
    positive = rows[1] if negative else rows[0]
    each = Guidance(*(jnp.asarray(per_image(number, positive)) for number in numbers))
    sample = sample.astype(jnp.float32)
    guided = _push(rows[0], positive, sample, each) if negative else positive
    if perturbed:
        guided = guided + each.pag_scale * (positive - rows[-1])
    return _rescale(guided, positive, sample, each)


def _push(
    negative: jax.Array, positive: jax.Array, sample: jax.Array, each: Guidance[jax.Array]
) -> jax.Array:
    """Away from the negative rows.

    Source: Ho & Salimans 2022; Sadat et al. 2024 (adaptive projected guidance), section 4, for x_0
      and without momentum; dynamic thresholding with a mimic scale as in the web UIs' extension of
      that name, to the largest value of each channel.
    """
    difference = positive - negative
    denoised = positive + each.denoised_offset * sample
    along = (difference * denoised).sum(EACH, keepdims=True)
    along = along / jnp.maximum(jnp.square(denoised).sum(EACH, keepdims=True), 1e-30)
    projected = difference - (1 - each.apg_eta) * along * denoised
    norm = jnp.sqrt(jnp.square(difference).sum(EACH, keepdims=True))
    projected = projected * jnp.minimum(1, each.apg_threshold / jnp.maximum(norm, 1e-30))
    # This is positive + (scale - 1) projected, in terms that vanish if the projection changes
    # nothing.
    guided = negative + each.scale * difference
    guided = guided + (each.scale - 1) * (projected - difference)

    mimicked = guided + (each.mimic_scale - each.scale) * projected
    offset = each.denoised_offset * sample
    centered, target = (
        x - x.mean(PIXELS, keepdims=True) for x in (guided + offset, mimicked + offset)
    )
    largest, allowed = (jnp.abs(x).max(PIXELS, keepdims=True) for x in (centered, target))
    shrunk = jnp.where(largest > allowed, allowed / largest, 1)
    return guided + (shrunk - 1) * centered


def _rescale(
    guided: jax.Array, positive: jax.Array, sample: jax.Array, each: Guidance[jax.Array]
) -> jax.Array:
    """Towards the standard deviation of the positive rows: of the output, then of the velocity.

    Source: Lin et al. 2023, section 3.4; diffusers' rescale_noise_cfg.
    """
    guided = guided * _factor(each.rescale, positive, guided)
    offset = each.velocity_offset * sample
    factor = _factor(each.rescale_v, positive + offset, guided + offset)
    return factor * guided + (factor - 1) * offset


def _factor(share: jax.Array, target: jax.Array, given: jax.Array) -> jax.Array:
    target, given = (x.std(EACH, keepdims=True) for x in (target, given))
    return jnp.where(share > 0, share * target / given + (1 - share), 1)
