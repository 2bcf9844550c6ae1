"""A VAE that begins with a linear code: its residual branches add nothing yet.

The convolutions of `linear_chain` are its own. A norm and a SiLU stand before the last one of the
encoder and of the decoder; both are made nearly linear there. Constants in channels of their own
have most of the energy that the norm divides by, and the SiLU has no curvature where it is used.
"""

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.models.vae import VAEConfig
from instantid_jax.params import Network, Params
from miniature.base.linear_chain import Layer, apply, decoder_layers, encoder_layers

# Where SiLU has no curvature, and its slope there.
LINEAR_AT = 2.3994
_SIGMOID = 1 / (1 + np.exp(-LINEAR_AT))
SLOPE = _SIGMOID * (1 + LINEAR_AT * (1 - _SIGMOID))
# Deviation of each channel that passes a SiLU.
SIGNAL = 0.2
# Energy of the constants before a norm, in that of all other channels.
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
    """Parameters of the layers around a norm and a SiLU, with which these are nearly linear.

    Channels take turns between the groups of the norm. In each group one holds zero: less that,
    the others are what they were before the norm subtracted a mean.

    Args:
      last, out: the layers before and after.
      signals: [N, H, W, n], what `last` makes of pictures.
    """
    part = last.name.split(".")[0]
    groups, width = config.norm_num_groups, params[f"{last.name}.kernel"].shape[-1]
    places = np.arange(width).reshape(groups, -1).T.ravel()
    zeros, carrying, constant = np.split(places, [groups, groups + last.outputs])
    deviations = signals.std((0, 1, 2)) / SIGNAL
    channels = np.zeros((*signals.shape[:3], width))
    channels[..., carrying] = signals / deviations
    energy = np.square(channels).sum(-1).mean()
    signs = 1 - 2 * (np.arange(len(constant)) // groups % 2)
    channels[..., constant] = signs * np.sqrt(DOMINANCE * energy / max(len(constant), 1))

    kernel = np.zeros(params[f"{last.name}.kernel"].shape)
    kernel[..., carrying] = kernels[last.name] / deviations
    bias = np.where(np.isin(np.arange(width), constant), channels[0, 0, 0], 0)
    passing = ~np.isin(np.arange(width), constant)
    spread = channels.reshape(len(signals), -1, groups, width // groups).std((1, 3)).mean(0)
    taps = np.zeros(params[f"{out.name}.kernel"].shape)
    taps[..., carrying, : out.outputs] = kernels[out.name] * deviations[:, None] / SLOPE
    by_group = taps.reshape(*taps.shape[:2], groups, width // groups, -1)
    taps[..., zeros, :] = -by_group.sum(3)
    return {
        f"{last.name}.kernel": kernel,
        f"{last.name}.bias": bias,
        f"{part}.conv_norm_out.scale": np.repeat(spread, width // groups) * passing,
        f"{part}.conv_norm_out.bias": LINEAR_AT * passing,
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
