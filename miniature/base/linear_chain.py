"""A VAE's convolutions in a row, without residual branches, norms and activations: a linear code.

Trained for minutes, it restores pictures better than the whole network does after hours.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from instantid_jax.models.vae import VAEConfig
from instantid_jax.params import Params
from miniature.stage import Batch

# Share of the channels before the last norm that carry pictures (see `linear_start`).
CARRYING = 2 / 3


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution of the chain.

    Attributes:
      name: as in the VAE.
      side: of the kernel.
      inputs, outputs: channels.
      resampling: "down" halves each side, "up" doubles it before the convolution.
    """

    name: str
    side: int
    inputs: int
    outputs: int
    resampling: Literal["down", "up"] | None = None

    def __call__(self, kernels: Params, x: jax.Array) -> jax.Array:
        if self.resampling == "up":
            x = x.repeat(2, axis=1).repeat(2, axis=2)
        down = self.resampling == "down"
        return jax.lax.conv_general_dilated(
            x,
            kernels[self.name],
            (2, 2) if down else (1, 1),
            ((0, 1), (0, 1)) if down else "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


def encoder_layers(config: VAEConfig) -> list[Layer]:
    """From pixels [B, H, W, 3] to latents [B, H / 8, W / 8, C]."""
    blocks = "encoder.down_blocks.{}.downsamplers.0.conv", "down"
    return _layers(config.block_out_channels, 3, config.latent_channels, *blocks)


def decoder_layers(config: VAEConfig) -> list[Layer]:
    """From latents to pixels."""
    blocks = "decoder.up_blocks.{}.upsamplers.0.conv", "up"
    return _layers(config.block_out_channels[::-1], config.latent_channels, 3, *blocks)


def _layers(
    widths: Sequence[int],
    inputs: int,
    outputs: int,
    sampler: str,
    resampling: Literal["down", "up"],
) -> list[Layer]:
    part, block = sampler.split(".")[0], sampler.partition("{}")[0] + "{}"
    chain = [Layer(f"{part}.conv_in", 3, inputs, widths[0])]
    for i, width in enumerate(widths):
        if width != chain[-1].outputs:
            name = f"{block.format(i)}.resnets.0.conv_shortcut"
            chain.append(Layer(name, 1, chain[-1].outputs, width))
        if i < len(widths) - 1:
            chain.append(Layer(sampler.format(i), 3, width, width, resampling))
    carrying = int(CARRYING * widths[-1])
    chain[-1] = dataclasses.replace(chain[-1], outputs=carrying)
    return [*chain, Layer(f"{part}.conv_out", 3, carrying, outputs)]


def init(config: VAEConfig, key: jax.Array) -> Params:
    """Random kernels [height, width, inputs, outputs], by their layers' names."""
    chain = encoder_layers(config) + decoder_layers(config)
    draw = jax.nn.initializers.lecun_normal()
    return {
        layer.name: draw(part, (layer.side, layer.side, layer.inputs, layer.outputs))
        for layer, part in zip(chain, jax.random.split(key, len(chain)), strict=True)
    }


def apply(chain: Sequence[Layer], kernels: Params, x: jax.Array) -> jax.Array:
    for layer in chain:
        x = layer(kernels, x)
    return x


def loss(
    config: VAEConfig, kernels: Params, batch: Batch, _key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean squared error of restored pictures."""
    pictures = batch["pixels"].astype(jnp.float32) / 127.5 - 1
    chain = encoder_layers(config) + decoder_layers(config)
    return jnp.mean(jnp.square(apply(chain, kernels, pictures) - pictures)), {}
