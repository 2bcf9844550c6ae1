"""The factors of a LoRA that is trained: shapes and initialization.

Source: Hu et al. 2021 (LoRA), section 4.1. Names and shapes are PEFT's.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from instantid_jax.params import Network, Params
from instantid_jax.runs.trained_lora import DOWN, UP, lora_layers
from instantid_jax.stacks import stack_shapes


@dataclasses.dataclass(frozen=True)
class Factors:
    """The factors of a LoRA of `unet`, as a component that has shapes like a `Network`."""

    unet: Network
    rank: int

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        return factor_shapes(self.unet, self.rank)

    def arrange(self, params: Params) -> Params:
        """As `Network.arrange`."""
        return self.unet.arrange(params)


def factor_shapes(
    network: Network, rank: int, component: str = "unet"
) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and float32 shapes: A [R, in, ...] and B [out, R] of each matrix and convolution.

    Those of a stacked network are stacked.

    Args:
      component: as for `lora_layers`.
    """
    shapes = _separate_shapes(network, rank, component)
    return stack_shapes(shapes) if network.stacked else shapes


def init_factors(network: Network, rank: int, key: jax.Array, component: str = "unet") -> Params:
    """A uniform with variance 1 / (3 in), as PEFT's; B zero, so that nothing changes at first."""
    params = {}
    shapes = _separate_shapes(network, rank, component)
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        if name.endswith(UP):
            params[name] = jnp.zeros(shape.shape, shape.dtype)
            continue
        bound = math.prod(shape.shape[1:]) ** -0.5
        own = jax.random.fold_in(key, number)
        params[name] = jax.random.uniform(own, shape.shape, shape.dtype, -bound, bound)
    return network.arrange(params)


def _separate_shapes(
    network: Network, rank: int, component: str
) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = {}
    for layer, target in lora_layers(network, component).items():
        out, *rest = target.shape
        inner = min(rank, out, math.prod(rest))
        shapes[f"{layer}.{DOWN}"] = jax.ShapeDtypeStruct((inner, *rest), jnp.float32)
        shapes[f"{layer}.{UP}"] = jax.ShapeDtypeStruct((out, inner), jnp.float32)
    return shapes
