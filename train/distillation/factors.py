"""The factors of the UNet's LoRA: shapes, initialization, and the weights they make.

Source: Hu et al. 2021 (LoRA), section 4.1. Names and shapes are PEFT's.
"""

import math

import jax
import jax.numpy as jnp

from instantid_jax.components import component_shapes
from instantid_jax.params import Network, Params
from instantid_jax.runs.trained_lora import LORA
from instantid_jax.weights.lora.spellings import Target, targets

DOWN, UP = "lora_A", "lora_B"


def factor_shapes(unet: Network, rank: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and float32 shapes: A [R, in, ...] and B [out, R] of each matrix and convolution."""
    shapes = {}
    for module, target in layers(unet).items():
        out, *rest = target.shape
        inner = min(rank, out, math.prod(rest))
        shapes[f"{LORA}{module}.{DOWN}"] = jax.ShapeDtypeStruct((inner, *rest), jnp.float32)
        shapes[f"{LORA}{module}.{UP}"] = jax.ShapeDtypeStruct((out, inner), jnp.float32)
    return shapes


def init_factors(unet: Network, rank: int, key: jax.Array) -> Params:
    """A uniform with variance 1 / (3 in), as PEFT's; B zero, so that nothing changes at first."""
    params = {}
    for number, (name, shape) in enumerate(sorted(factor_shapes(unet, rank).items())):
        if name.endswith(UP):
            params[name] = jnp.zeros(shape.shape, shape.dtype)
            continue
        bound = math.prod(shape.shape[1:]) ** -0.5
        own = jax.random.fold_in(key, number)
        params[name] = jax.random.uniform(own, shape.shape, shape.dtype, -bound, bound)
    return params


def merged(unet: Network, weights: Params, factors: Params) -> Params:
    """The UNet's weights with the LoRA's differences added, in the weights' dtype.

    Args:
      weights: the UNet's, without the ID branch.
      factors: by the names of `factor_shapes`, float32.
    """
    changed = dict(weights)
    for module, target in layers(unet).items():
        down, up = (factors[f"{LORA}{module}.{role}"] for role in (DOWN, UP))
        difference = (up @ down.reshape(len(down), -1)).reshape(target.shape)
        weight = weights[target.weight]
        total = weight.astype(jnp.float32) + difference.transpose(target.axes)
        changed[target.weight] = total.astype(weight.dtype)
    return changed


def layers(unet: Network) -> dict[str, Target]:
    """The UNet's layers that have factors, by torch's names."""
    found = targets("unet", component_shapes("unet", unet))
    return {module: target for module, target in found.items() if not target.is_norm}
