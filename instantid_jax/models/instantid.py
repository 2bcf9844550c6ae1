"""InstantID as a whole: an SDXL UNet, ControlNets with IdentityNet first, and ID tokens.

Sampling, training and the comparison with PyTorch share this assembly.
Source: Wang et al. 2024 (InstantID), section 3; the official StableDiffusionXLInstantIDPipeline.
"""

import itertools
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.models.attention import DecoupledKeysValues
from instantid_jax.models.blocks import Remat, keep
from instantid_jax.models.controlnet import ControlNetModel
from instantid_jax.models.unet import UNet, UNet2DConditionModel

# Compiled functions see jax.Array; their callers may also pass NumPy arrays.
Array = TypeVar("Array", bound=jax.Array | np.ndarray, covariant=True)


class ControlNetConditions(NamedTuple):
    """The inputs of one ControlNet that are constant across denoising steps.

    Attributes:
      context: keys and values of its cross-attentions.
      added: [B, time_dim], the embedded pooled text and sizes.
      image: [B, H, W, C], the embedded control image.
      masks: how much residuals count at each position: for each level of the network [B, H, W];
        None is 1 everywhere.
    """

    context: dict[str, tuple]
    added: jax.Array
    image: jax.Array
    masks: tuple[jax.Array, ...] | None = None


class Conditions(NamedTuple):
    """The inputs of the networks that are constant across denoising steps.

    Attributes:
      context: keys and values of the UNet's cross-attentions.
      added: [B, time_dim], embedded pooled text and sizes.
      controlnets: one per ControlNet, IdentityNet first.
      masks: how much the Image Adapter counts at each position: for each level of the UNet
        [B, H, W]; None is 1 everywhere.
    """

    context: dict[str, tuple]
    added: jax.Array
    controlnets: tuple[ControlNetConditions, ...]
    masks: tuple[jax.Array, ...] | None = None


class Masks(NamedTuple, Generic[Array]):
    """Masks [B, H, W] in [0, 1] for each level of the networks, 0 where they count nothing.

    Attributes:
      adapter: the Image Adapter's.
      controlnets: each ControlNet's, IdentityNet first.
    """

    adapter: tuple[Array, ...]
    controlnets: tuple[tuple[Array, ...], ...]


class Texts(NamedTuple, Generic[Array]):
    """Encoded prompts.

    Attributes:
      hidden: [B, L, D], concatenated hidden states of both text encoders.
      pooled: [B, P], pooled state of the second.
    """

    hidden: Array
    pooled: Array


def condition(
    unet: UNet2DConditionModel,
    controlnets: Sequence[ControlNetModel],
    texts: Texts[jax.Array],
    time_ids: jax.Array,
    id_tokens: jax.Array,
    ip_adapter_scale: jax.Array,
    images: Sequence[jax.Array],
    masks: Masks[jax.Array] | None = None,
) -> Conditions:
    """Computes the inputs that are constant across denoising steps; all arrays have B rows.

    Args:
      time_ids: [B, 6] float32, SDXL's micro-conditioning.
      id_tokens: [B, N, D], from the Resampler.
      ip_adapter_scale: [transformers, B], [B] or scalar.
      images: one per ControlNet, from its `embed_image`.
      masks: None is everywhere.
    """
    # IdentityNet attends to the ID tokens instead of the text.
    tokens = itertools.chain([id_tokens], itertools.repeat(texts.hidden))
    each = [
        condition_controlnet(controlnet, attended, texts.pooled, time_ids, image)
        for (controlnet, image), attended in zip(
            zip(controlnets, images, strict=True), tokens, strict=False
        )
    ]
    if masks is not None:
        each = [c._replace(masks=m) for c, m in zip(each, masks.controlnets, strict=True)]
    return Conditions(
        context=unet.keys_values(texts.hidden, id_tokens, ip_adapter_scale),
        added=unet.embed_added(texts.pooled, time_ids),
        controlnets=tuple(each),
        masks=None if masks is None else masks.adapter,
    )


def condition_controlnet(
    controlnet: ControlNetModel,
    tokens: jax.Array,
    pooled: jax.Array,
    time_ids: jax.Array,
    image: jax.Array,
) -> ControlNetConditions:
    """One ControlNet's part of `condition`; tokens: [B, N, D], for its cross-attentions."""
    return ControlNetConditions(
        context=controlnet.keys_values(tokens),
        added=controlnet.embed_added(pooled, time_ids),
        image=image,
    )


def sum_residuals(
    controlnets: Sequence[ControlNetModel],
    sample: jax.Array,
    timesteps: jax.Array,
    conditions: Sequence[ControlNetConditions],
    scales: jax.Array | None = None,
    remat: Remat = keep,
) -> list[jax.Array]:
    """Sums the residuals of the ControlNets, the middle block's last.

    Args:
      scales: [ControlNets, residuals, B] float32, which masks multiply; None is full strength
        everywhere.
    """
    total: list[jax.Array] = []
    for i, (controlnet, given) in enumerate(zip(controlnets, conditions, strict=True)):
        channels = controlnet.config.in_channels
        noisy = sample if channels == sample.shape[-1] else sample[..., :channels]
        residuals = controlnet(noisy, timesteps, given.context, given.added, given.image, remat)
        if scales is not None:
            levels = controlnet.config.residual_levels
            residuals = [
                residual * _factor(scale, given.masks, level).astype(residual.dtype)
                for residual, scale, level in zip(residuals, scales[i], levels, strict=True)
            ]
        total = [a + b for a, b in zip(total, residuals, strict=True)] if total else residuals
    return total


def _factor(scale: jax.Array, masks: Sequence[jax.Array] | None, level: int) -> jax.Array:
    """The scale [B] at each position, [B, H, W, 1]; without masks [B, 1, 1, 1]."""
    factor = scale[:, None, None]
    if masks is not None:
        factor = factor * masks[level].astype(factor.dtype)
    return factor[..., None]


def weigh_adapter(context: dict[str, tuple], weights: Sequence[jax.Array]) -> dict[str, tuple]:
    """The UNet's keys and values, with weights of the Image Adapter at each position.

    Args:
      context: from `UNet2DConditionModel.keys_values`.
      weights: for each level [B, H, W].
    """

    def weighted(block: tuple, weight: jax.Array) -> tuple:
        mask = weight.reshape(len(weight), -1, 1)
        return jax.tree.map(
            lambda given: given._replace(
                images=tuple(branch._replace(mask=mask) for branch in given.images)
            ),
            block,
            is_leaf=lambda node: isinstance(node, DecoupledKeysValues),
        )

    down, middle, up = (context[name] for name in ("down_blocks", "mid_block", "up_blocks"))
    return {
        "down_blocks": tuple(map(weighted, down, weights)),
        "mid_block": weighted(middle, weights[-1]),
        "up_blocks": tuple(map(weighted, up, reversed(weights))),
    }


def predict(
    unet: UNet,
    controlnets: Sequence[ControlNetModel],
    sample: jax.Array,
    timesteps: jax.Array,
    conditions: Conditions,
    scales: jax.Array | None = None,
    remat: Remat = keep,
    *,
    freeu: jax.Array | None = None,
    adapter_scales: jax.Array | None = None,
    perturbed: int = 0,
) -> jax.Array:
    """Predicts the noise, or the velocity: [B, H, W, C], in the weights' dtype.

    Args:
      sample: [B, H, W, C], scaled for the networks, in the weights' dtype. What an inpainting UNet
        takes besides follows in further channels, which ControlNets do not see.
      timesteps: [B] float32.
      scales: as for `sum_residuals`.
      remat: wraps every resnet and transformer block in training.
      freeu: as for the UNet.
      adapter_scales: [B] float32, what the Image Adapter's masks are multiplied by; None is 1.
      perturbed: rows at the end to predict once more, at the end of the result, with the layers
        that `pag.perturb` replaced. ControlNets do not differ there.
    """
    given = conditions.controlnets
    residuals = sum_residuals(controlnets, sample, timesteps, given, scales, remat) or None
    context = conditions.context
    if conditions.masks is not None:
        weights = conditions.masks
        if adapter_scales is not None:
            scale = adapter_scales[:, None, None]
            weights = [mask * scale.astype(mask.dtype) for mask in weights]
        context = weigh_adapter(context, weights)
    inputs = (sample, timesteps, context, conditions.added, residuals)
    if perturbed:
        inputs = jax.tree.map(lambda x: jnp.concatenate([x, x[-perturbed:]]), inputs)
    sample, timesteps, context, added, residuals = inputs
    return unet(sample, timesteps, context, added, residuals, remat, freeu)
