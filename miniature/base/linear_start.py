"""A VAE that begins with a linear code: its residual branches add nothing yet.

The convolutions of `linear_chain` are its own. A norm and a SiLU stand before the last one of the
encoder and of the decoder. SiLU(x) - SiLU(-x) is x, so each signal has two channels there, which
also cancel in the norm's mean; constants have most of the energy that the norm divides by.
"""

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.models.vae import VAEConfig
from instantid_jax.params import Network, Params
from miniature.base.linear_chain import Layer, apply, decoder_layers, encoder_layers

# Energy of the constants before a norm, relative to all other channels.
DOMINANCE = 25.0
# Mean deviation of the latents, and their log-variance. At the usual 0 there is as much noise as
# signal.
DEVIATION, LOG_VARIANCE = 0.3, -8.0


def init(net: Network, key: jax.Array, kernels: Params, pixels: np.ndarray) -> Params:
    """Parameters with which a VAE encodes and decodes as a chain of convolutions does.

    The latents are decorrelated, those that vary most come first.

    Args:
      key: draws the residual branches.
      kernels: of `linear_chain`.
      pixels: uint8 [N, H, W, 3], pictures whose statistics are used.
    Source: Zhang et al. 2019 (Fixup), branches whose last layer is zero.
    """
    config: VAEConfig = net.config
    params = {
        name: jnp.zeros_like(value) if name.endswith(("conv2.kernel", "to_out.0.kernel")) else value
        for name, value in net.init(key).items()
    }
    kernels = {name: np.asarray(kernel) for name, kernel in kernels.items()}
    encoder, decoder = encoder_layers(config), decoder_layers(config)
    x = pixels.astype(np.float32) / 127.5 - 1
    latents = apply(encoder, kernels, x)
    for chain, start in ((encoder, x), (decoder, latents)):
        *before, last, out = chain
        params |= {f"{layer.name}.kernel": kernels[layer.name] for layer in before}
        signals = np.asarray(apply([*before, last], kernels, start))
        params |= _through_norm(config, params, kernels, last, out, signals)
    params |= _decorrelated(np.asarray(latents))
    return {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}


def _through_norm(
    config: VAEConfig, params: Params, kernels: Params, last: Layer, out: Layer, signals: np.ndarray
) -> dict[str, np.ndarray]:
    """Parameters of the layers around a norm and a SiLU, with which these are linear.

    Args:
      last, out: the layers before and after.
      signals: [N, H, W, n], what `last` makes of pictures.
    """
    part = last.name.split(".")[0]
    kernel = np.zeros(params[f"{last.name}.kernel"].shape)
    taps = np.zeros(params[f"{out.name}.kernel"].shape)
    groups, width = config.norm_num_groups, kernel.shape[-1]
    # Places of the signals, of their negatives in the same groups, and of the constants.
    by_group = np.array_split(np.arange(width).reshape(groups, -1), [2 * last.outputs // groups], 1)
    positive, negative = by_group[0][:, ::2].ravel(), by_group[0][:, 1::2].ravel()
    constant = by_group[1].ravel()
    deviations = signals.std((0, 1, 2))
    channels = np.zeros((*signals.shape[:3], width))
    channels[..., positive] = signals / deviations
    channels[..., negative] = -channels[..., positive]
    energy = np.square(channels).sum(-1).mean()
    signs = 1 - 2 * (np.arange(len(constant)) % 2)
    channels[..., constant] = signs * np.sqrt(DOMINANCE * energy / max(len(constant), 1))
    spread = channels.reshape(len(signals), -1, groups, width // groups).std((1, 3)).mean(0)

    bias = np.zeros(width)
    bias[constant] = channels[0, 0, 0, constant]
    passed = np.repeat(spread, width // groups)
    passed[constant] = 0
    for places, sign in ((positive, 1), (negative, -1)):
        kernel[..., places] = sign * kernels[last.name] / deviations
        taps[..., places, : out.outputs] = sign * kernels[out.name] * deviations[:, None]
    return {
        f"{last.name}.kernel": kernel,
        f"{last.name}.bias": bias,
        f"{part}.conv_norm_out.scale": passed,
        f"{out.name}.kernel": taps,
    }


def _decorrelated(latents: np.ndarray) -> dict[str, np.ndarray]:
    """Convolutions of 1 x 1 to latents that are not correlated, and back.

    They deviate by the root of what principal components do: so the weakest are not lost in noise,
    nor do the strongest dominate.

    Args:
      latents: [N, H, W, C].
    """
    flat = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    count, mean = flat.shape[1], flat.mean(0)
    variances, directions = np.linalg.eigh(np.cov(flat.T))
    deviations = np.sqrt(np.maximum(variances[::-1], 1e-12))
    wanted = np.sqrt(deviations)
    scales = wanted * DEVIATION / wanted.mean() / deviations
    forward = directions[:, ::-1] * scales
    kernel = np.zeros((2 * count, 2 * count))
    kernel[:count, :count] = forward
    return {
        "quant_conv.kernel": kernel[None, None],
        "quant_conv.bias": np.concatenate([-mean @ forward, np.full(count, LOG_VARIANCE)]),
        "post_quant_conv.kernel": (directions[:, ::-1] / scales).T[None, None],
        "post_quant_conv.bias": mean,
    }
