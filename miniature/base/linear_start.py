"""The VAE before training: a cosine transform, to which the other branches add nothing yet.

Random convolutions in a row keep the strongest direction, light, and lose the others. The lowest
frequencies of 8 x 8 pixels are the best linear code of drawn pictures to within a decibel, and
need not be learned.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import dct

from instantid_jax.models.vae import VAEConfig
from instantid_jax.params import Network, Params

# Light, blue against yellow, green against magenta: orthonormal directions in RGB.
OPPONENT_COLORS = np.array([[1, 1, 1], [-1, 0, 1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
# Colors vary less than light: their frequencies count as this much higher.
COLOR_STEP = 3
# Log-variance of the posterior. At the usual 0 there is as much noise as signal.
LOG_VARIANCE = -8.0
# SiLU is nearly linear around this.
LINEAR_AT = 2.0
# Spare channels hold plus and minus this: a norm then hardly changes the signal's scale.
CONSTANT = 1.0
# About the deviation of a signal.
SIGNAL = 0.3


def init(net: Network, key: jax.Array) -> Params:
    """Fresh parameters: latents are the lowest cosines of 8 x 8 pixels, decoded to a mean color.

    Source: Ahmed et al. 1974 (the cosine transform); Zhang et al. 2019 (Fixup), branches whose
    last layer is zero.
    """
    params = {
        name: jnp.zeros_like(value) if name.endswith(("conv2.kernel", "to_out.0.kernel")) else value
        for name, value in net.init(key).items()
    }
    return params | _encoder(net.config, params) | _decoder(net.config, params)


def cosines(side: int, count: int) -> np.ndarray:
    """The lowest cosines of a square of pixels, mean colors first: [count, side, side, 3].

    They are orthogonal, and of lengths with which they vary about alike in pictures; the first
    three are the means.
    """
    basis = dct(np.eye(side), axis=0, norm="ortho")
    y, x, color = np.indices((side, side, 3)).reshape(3, -1)
    frequency = x + y + COLOR_STEP * ((color > 0) & (x + y > 0))
    lowest = np.argsort(frequency, kind="stable")[:count]
    y, x, color, frequency = (each[lowest] for each in (y, x, color, frequency))
    functions = np.einsum("ny,nx,nc->nyxc", basis[y], basis[x], OPPONENT_COLORS[color])
    return functions * ((1 + frequency) / side)[:, None, None, None]


def _encoder(config: VAEConfig, params: Params) -> Params:
    started = {"encoder.conv_in.kernel": _tapped(params["encoder.conv_in.kernel"], _passed(3))}
    # What the first channels are of the pixels in a square.
    functions = np.eye(3).reshape(3, 1, 1, 3)
    widths = config.block_out_channels
    constants = ""
    for i, width in enumerate(widths):
        shortcut = f"encoder.down_blocks.{i}.resnets.0.conv_shortcut"
        if f"{shortcut}.kernel" in params:
            kernel = params[f"{shortcut}.kernel"]
            started[f"{shortcut}.kernel"] = _tapped(kernel, _passed(len(functions)))
            constants = f"{shortcut}.bias"
        if i < len(widths) - 1:
            down = f"encoder.down_blocks.{i}.downsamplers.0.conv"
            most = min(width, config.latent_channels) if i == len(widths) - 2 else width
            functions, taps = _halved(functions, most)
            started[f"{down}.kernel"] = _tapped(params[f"{down}.kernel"], taps)
            constants = f"{down}.bias"
    signals, latent = len(functions), config.latent_channels
    started[constants] = _with_constants(params[constants], signals)
    gain, offset = _through_norm(config, widths[-1], signals)
    started["encoder.conv_norm_out.bias"] = jnp.full(widths[-1], LINEAR_AT)
    kernel, bias = np.zeros(params["encoder.conv_out.kernel"].shape), np.zeros(2 * latent)
    kernel[1, 1, :signals, :signals] = np.diag(1 / gain)
    bias[:signals] = -offset / gain
    started["encoder.conv_out.kernel"] = jnp.asarray(kernel, jnp.float32)
    started["encoder.conv_out.bias"] = jnp.asarray(bias, jnp.float32)
    started["quant_conv.kernel"] = jnp.eye(2 * latent)[None, None]
    started["quant_conv.bias"] = jnp.repeat(jnp.array([0, LOG_VARIANCE]), latent)
    return started


def _decoder(config: VAEConfig, params: Params) -> Params:
    started = {"post_quant_conv.kernel": jnp.eye(config.latent_channels)[None, None]}
    constants = ""
    for name, value in params.items():
        if name.startswith("decoder.") and name.endswith(
            ("conv_in.kernel", "upsamplers.0.conv.kernel", "conv_shortcut.kernel")
        ):
            started[name] = _tapped(value, _passed(min(*value.shape[2:], config.latent_channels)))
            # Those of the last block come last.
            constants = name.replace("kernel", "bias")
    started[constants] = _with_constants(params[constants], 3)
    width = config.block_out_channels[0]
    gain, offset = _through_norm(config, width, 3)
    started["decoder.conv_norm_out.bias"] = jnp.full(width, LINEAR_AT)
    kernel = np.zeros(params["decoder.conv_out.kernel"].shape)
    kernel[1, 1, :3] = OPPONENT_COLORS / gain[:, None]
    started["decoder.conv_out.kernel"] = jnp.asarray(kernel, jnp.float32)
    bias = -offset * (OPPONENT_COLORS / gain[:, None]).sum(0)
    started["decoder.conv_out.bias"] = jnp.asarray(bias, jnp.float32)
    return started


def _passed(count: int) -> np.ndarray:
    return np.eye(count)[None, None]


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


def _halved(functions: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """How a strided convolution makes channels of squares of twice the side.

    Args:
      functions: [channels, side, side, 3], of the pixels.
      most: channels there are to be: all at four places, or else the lowest cosines.
    Returns:
      the functions of the wider squares, and taps [2, 2, channels, at most `most`].
    """
    count, side = functions.shape[:2]
    moved = np.zeros((2, 2, count, 2, side, 2, side, 3))
    for y in range(2):
        for x in range(2):
            moved[y, x, :, y, :, x] = functions
    moved = moved.reshape(4 * count, -1)
    wanted = moved if len(moved) <= most else cosines(2 * side, most).reshape(most, -1)
    taps = np.linalg.lstsq(moved.T, wanted.T)[0]
    return wanted.reshape(-1, 2 * side, 2 * side, 3), taps.reshape(2, 2, count, -1)


def _with_constants(bias: jax.Array, signals: int) -> jax.Array:
    places = jnp.arange(len(bias))
    # From an even place on, so that they add up to zero.
    return jnp.where(places < signals + signals % 2, bias, CONSTANT * (1 - 2.0 * (places % 2)))


def _through_norm(config: VAEConfig, width: int, signals: int) -> tuple[np.ndarray, float]:
    """What norm and SiLU make of signals: gain times each, and an offset."""
    squares = np.where(np.arange(width) < signals + signals % 2, SIGNAL**2, CONSTANT**2)
    variance = squares.reshape(config.norm_num_groups, -1).mean(1)
    sigmoid = 1 / (1 + np.exp(-LINEAR_AT))
    slope = sigmoid * (1 + LINEAR_AT * (1 - sigmoid))
    gain = slope / np.sqrt(np.repeat(variance, width // config.norm_num_groups)[:signals])
    return gain, LINEAR_AT * sigmoid
