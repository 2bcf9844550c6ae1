"""The parts of SDXL's UNet that are benchmarked separately, and the shapes of their inputs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.cases import ID_TOKENS, TOKENS
from instantid_jax.components import network
from instantid_jax.models.unet import UNet2DConditionModel, UNetConfig
from instantid_jax.params import Network, Params
from instantid_jax.weights.sdxl_base import SETTINGS

UNET = network("unet", SETTINGS["unet"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetPart:
    """A block of the UNet, or a resnet, transformer or sampler inside one.

    Attributes:
      path: name in the UNet.
      channels: channels of the input.
      scale: latent side over input side.
      skips: (channels, scale) of the remaining skip connections of an up block.
    """

    path: str
    channels: int
    scale: int
    skips: tuple[tuple[int, int], ...] = ()

    @property
    def network(self) -> Network:
        return Network(_part_of_unet, self)

    def inputs(
        self, net: Network, rows: int, side: int, dtype: jnp.dtype
    ) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, tuple, list[jax.ShapeDtypeStruct]]:
        """Shapes of feature map, time embedding, keys and values, and skips.

        Args:
          side: side of the latents.
        """

        def feature_map(channels: int, scale: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((rows, side // scale, side // scale, channels), dtype)

        width = UNET.config.cross_attention_dim
        text, person = (
            jax.ShapeDtypeStruct((rows, count, width), dtype) for count in (TOKENS, ID_TOKENS)
        )
        params = {n: jax.ShapeDtypeStruct(s.shape, dtype) for n, s in net.shapes.items()}

        def keys_values(params: Params, *tokens: jax.Array) -> tuple:
            part = net.bind(params)
            # Resnets and samplers have no attention.
            return part.keys_values(*tokens, jnp.ones(())) if hasattr(part, "keys_values") else ()

        context = jax.eval_shape(keys_values, params, text, person)
        time = jax.ShapeDtypeStruct((rows, UNET.config.time_dim), dtype)
        skips = [feature_map(*each) for each in self.skips]
        return feature_map(self.channels, self.scale), time, context, skips

    def run(
        self,
        net: Network,
        params: Params,
        x: jax.Array,
        time: jax.Array,
        context: tuple,
        skips: Sequence[jax.Array],
    ) -> Any:
        """Runs the part on `inputs`."""
        part, time = net.bind(params), jax.nn.silu(time)
        match self.path.split("."):
            case *_, "attentions", _:
                return part(x, context)
            case *_, "resnets", _:
                return part(x, time)
            case *_, "downsamplers", _:
                return part(x)
            case *_, "upsamplers", _:
                return part(x, (2 * x.shape[1], 2 * x.shape[2]))
            case "up_blocks", _:
                return part(x, list(skips), time, context)
            case _:
                return part(x, time, context)


def _part_of_unet(part: UNetPart, *, rngs: nnx.Rngs) -> nnx.Module:
    module = UNet2DConditionModel(UNET.config, rngs=rngs)
    for step in part.path.split("."):
        module = module[int(step)] if step.isdigit() else getattr(module, step)
    return module


def _parts(config: UNetConfig) -> tuple[UNetPart, ...]:
    """One part of each kind and width."""
    low, mid, high = config.block_out_channels
    skips = ((low, 1),) * 3 + ((low, 2),) + ((mid, 2),) * 2 + ((mid, 4),) + ((high, 4),) * 2
    return (
        # Ten transformer blocks, which make up most of the network.
        UNetPart(path="mid_block.attentions.0", channels=high, scale=4),
        UNetPart(path="down_blocks.0", channels=low, scale=1),
        UNetPart(path="down_blocks.1", channels=low, scale=2),
        UNetPart(path="down_blocks.2", channels=mid, scale=4),
        UNetPart(path="mid_block", channels=high, scale=4),
        UNetPart(path="up_blocks.0", channels=high, scale=4, skips=skips),
        UNetPart(path="up_blocks.1", channels=high, scale=2, skips=skips[:6]),
        UNetPart(path="up_blocks.2", channels=mid, scale=1, skips=skips[:3]),
    )


PARTS = {part.path: part for part in _parts(UNET.config)}
