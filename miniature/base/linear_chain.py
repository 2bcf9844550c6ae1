"""A VAE's convolutions in a row, without residual branches, norms and activations: a linear code.

It trains in minutes, and `linear_start` makes the start of the whole network of it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import dct

from instantid_jax.models.vae import VAEConfig
from instantid_jax.params import Params
from miniature.stage import Batch

# Signals per channel before the last norm; each has two channels there (see `linear_start`).
CARRYING = 5 / 12
# Light, blue against yellow, green against magenta: orthonormal directions in RGB.
OPPONENT_COLORS = np.array([[1, 1, 1], [-1, 0, 1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
# Colors vary less than light: their frequencies count as this much higher.
COLOR_STEP = 3


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution of the chain.

    Attributes:
      name: as in the VAE.
      side: height and width of the kernel.
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
    carrying = int(CARRYING * widths[-1]) // 2 * 2
    chain[-1] = dataclasses.replace(chain[-1], outputs=carrying)
    return [*chain, Layer(f"{part}.conv_out", 3, carrying, outputs)]


def init(config: VAEConfig, key: jax.Array) -> Params:
    """Kernels [height, width, inputs, outputs], by their layers' names.

    The latents are the lowest cosines of a square of pixels, the best linear code of drawn
    pictures to within a decibel; the decoder makes its mean color of them. All else is random.

    Source: Ahmed et al. 1974 (the cosine transform).
    """
    chain = encoder_layers(config) + decoder_layers(config)
    draw = jax.nn.initializers.lecun_normal()
    kernels = {
        layer.name: draw(part, (layer.side, layer.side, layer.inputs, layer.outputs))
        for layer, part in zip(chain, jax.random.split(key, len(chain)), strict=True)
    }
    # The pixels whose sums the first channels are.
    functions = np.eye(3).reshape(3, 1, 1, 3)
    for layer in encoder_layers(config):
        if layer.resampling == "down":
            functions, taps = _halved(functions, layer.outputs)
        else:
            taps = np.eye(len(functions), min(len(functions), layer.outputs))[None, None]
            functions = functions[: layer.outputs]
        kernels[layer.name] = _tapped(kernels[layer.name], taps)
    *before, out = decoder_layers(config)
    for layer in before:
        passed = np.eye(min(layer.inputs, layer.outputs, config.latent_channels))
        kernels[layer.name] = _tapped(kernels[layer.name], passed[None, None])
    kernels[out.name] = _tapped(kernels[out.name], OPPONENT_COLORS[None, None, : out.inputs])
    return kernels


def cosines(side: int, count: int) -> np.ndarray:
    """The lowest cosines of a square of pixels, mean colors first: [count, side, side, 3].

    They are orthogonal, and scaled to vary about alike in pictures; the first three are the means.
    """
    basis = dct(np.eye(side), axis=0, norm="ortho")
    y, x, color = np.indices((side, side, 3)).reshape(3, -1)
    frequency = x + y + COLOR_STEP * ((color > 0) & (x + y > 0))
    lowest = np.argsort(frequency, kind="stable")[:count]
    y, x, color, frequency = (each[lowest] for each in (y, x, color, frequency))
    functions = np.einsum("ny,nx,nc->nyxc", basis[y], basis[x], OPPONENT_COLORS[color])
    return functions * ((1 + frequency) / side)[:, None, None, None]


def _halved(functions: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of squares of twice the side, and how a strided convolution makes them.

    Args:
      functions: [channels, side, side, 3], whose sums the inputs are.
      most: cosines at most, the lowest ones.
    Returns:
      the cosines, and taps [2, 2, channels, number of cosines].
    """
    count, side = functions.shape[:2]
    moved = np.zeros((2, 2, count, 2, side, 2, side, 3))
    for y in range(2):
        for x in range(2):
            moved[y, x, :, y, :, x] = functions
    moved = moved.reshape(4 * count, -1)
    wanted = cosines(2 * side, min(most, len(moved)))
    taps = np.linalg.lstsq(moved.T, wanted.reshape(len(wanted), -1).T)[0]
    return wanted, taps.reshape(2, 2, count, -1)


def _tapped(kernel: jax.Array, taps: np.ndarray) -> jax.Array:
    """A kernel with which the first outputs are these sums of the first inputs.

    Args:
      kernel: [3, 3, inputs, outputs] or [1, 1, ...]; the other outputs stay as they are.
      taps: [1, 1, ...] at the middle or [2, 2, ...] at the upper left.
    """
    height, width, inputs, outputs = taps.shape
    at = kernel.shape[0] // 2 if height == 1 else 0
    changed = kernel.at[..., :outputs].set(0)
    return changed.at[at : at + height, at : at + width, :inputs, :outputs].set(taps)


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
