"""`python -m miniature.base.component_code --workdir DIR`: makes a VAE without any training.

Its latents are the principal components of 8 x 8 pixels, of all linear codes the one that says
the most about them. The encoder's convolutions compute it, and `gated_decoder` reads it.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from instantid_jax.cli.entry import entry
from instantid_jax.components import network
from instantid_jax.models.layers import GroupNorm
from instantid_jax.models.vae import VAEConfig
from instantid_jax.params import Network, Params
from miniature.base.architecture import VAE
from miniature.base.autoencoder import HELD_OUT_SEED, SEED, publish
from miniature.base.gated_decoder import decoder_parameters
from miniature.base.pictures import drawn_pictures
from miniature.base.streams import LINEAR_AT, SLOPE, Stream, tapped

# Log-variance of the posterior. At the usual 0 there is as much noise as signal.
LOG_VARIANCE = -10.0
# Mean deviation of the latents.
DEVIATION = 0.3
# Pictures by which norms are calibrated.
SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Code:
    """A linear code of squares of pixels.

    Attributes:
      analysis: [latents, side, side, 3]; a latent is the sum of its products with the pixels.
      synthesis: [latents, side, side, 3]; pixels are the sum of the latents times these.
      deviations: [latents].
    """

    analysis: np.ndarray
    synthesis: np.ndarray
    deviations: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the components are of.

    Attributes:
      workdir: where pictures are drawn, if they are not there yet, and `vae` is written.
      latent_channels: components of 8 x 8 pixels.
      pictures: drawn ones whose components they are, a multiple of 50.
      held_out: pictures to measure it on, a multiple of 50.
      processes: how many draw.
    """

    workdir: Path
    latent_channels: Literal[16, 24, 32] = 32
    pictures: int = 500
    held_out: int = 200
    processes: int = 2


def main() -> None:
    with entry("component_code"):
        options = tyro.cli(Options, description=__doc__)
        settings = VAE | {"latent_channels": options.latent_channels}
        net = network("vae", settings)
        pictures, held_out = (
            drawn_pictures(options.workdir / name, count, seed, options.processes)
            for name, count, seed in (
                ("pictures", options.pictures, SEED),
                ("held-out", options.held_out, HELD_OUT_SEED),
            )
        )
        params = init(net, jax.random.key(0), pictures.pixels)
        publish(net, settings, params, held_out, options.workdir)


def principal_components(pixels: np.ndarray, side: int, count: int) -> Code:
    """The linear code of least squared error, the components that vary most first.

    Latents deviate by the root of what components do, times a common factor: so the weakest are
    not lost in noise, nor do the strongest dominate norms.

    Args:
      pixels: uint8 [N, H, W, 3], of sides that `side` divides.
      count: latents, at most 3 · side².
    """
    N, H, W, _ = pixels.shape
    cells = pixels.reshape(N, H // side, side, W // side, side, 3).swapaxes(2, 3)
    cells = cells.reshape(-1, 3 * side**2).astype(np.float32) / 127.5 - 1
    variances, directions = np.linalg.eigh(cells.T @ cells / len(cells))
    deviations = np.sqrt(np.maximum(variances[: -count - 1 : -1], 1e-12))
    directions = directions[:, : -count - 1 : -1].T.reshape(count, side, side, 3)
    wanted = np.sqrt(deviations)
    wanted *= DEVIATION / wanted.mean()
    scale = (wanted / deviations)[:, None, None, None]
    return Code(directions * scale, directions / scale, wanted)


def init(net: Network, key: jax.Array, pixels: np.ndarray) -> Params:
    """Fresh parameters with which principal components of 8 x 8 pixels are the latents.

    Args:
      pixels: uint8 [N, H, W, 3], whose components they are.
    """
    config: VAEConfig = net.config
    code = principal_components(pixels, config.downscale, config.latent_channels)
    params = {
        # Branches add nothing, but where the decoder needs them.
        name: jnp.zeros_like(value) if name.endswith(("conv2.kernel", "to_out.0.kernel")) else value
        for name, value in net.init(key).items()
    }
    params |= _encoder(config, params, code, pixels)
    params |= decoder_parameters(config, params, code.synthesis, code.deviations)
    return params | _calibrated(net, params, pixels[:SHOWN])


def _calibrated(net: Network, params: Params, pixels: np.ndarray) -> Params:
    """Scales of norms, times the deviations that their groups have in pictures."""
    vae = net.bind(params)
    found = {}

    def calibrate(name: str, norm: GroupNorm, x: jax.Array) -> None:
        groups = x.reshape(-1, norm.groups, x.shape[-1] // norm.groups)
        scale = norm.scale[...] * jnp.repeat(groups.std((0, 2)), groups.shape[-1])
        found[f"{name}.scale"] = norm.scale[...] = scale

    x = vae.encoder.conv_in(pixels.astype(np.float32) / 127.5 - 1)
    for block in vae.encoder.down_blocks:
        x = block(x)
    x = vae.encoder.mid_block(x)
    calibrate("encoder.conv_norm_out", vae.encoder.conv_norm_out, x)
    x = vae.encoder.conv_out(jax.nn.silu(vae.encoder.conv_norm_out(x)))
    decoder = vae.decoder
    x = decoder.conv_in(jnp.split(x, 2, axis=-1)[0])
    x = decoder.up_blocks[0](decoder.mid_block(x))
    for i, block in enumerate(list(decoder.up_blocks)[1:], 1):
        for j, resnet in enumerate(block.resnets):
            name = f"decoder.up_blocks.{i}.resnets.{j}"
            calibrate(f"{name}.norm1", resnet.norm1, x)
            hidden = resnet.conv1(jax.nn.silu(resnet.norm1(x)))
            calibrate(f"{name}.norm2", resnet.norm2, hidden)
            x = resnet(x)
        if block.upsamplers is not None:
            x = block.upsamplers[0](x, (2 * x.shape[1], 2 * x.shape[2]))
    calibrate("decoder.conv_norm_out", decoder.conv_norm_out, x)
    return found


def _encoder(config: VAEConfig, params: Params, code: Code, pixels: np.ndarray) -> Params:
    widths, latent = config.block_out_channels, config.latent_channels
    # The last layer but one's: the sums that are the latents.
    most = min(latent, widths[-1] - config.norm_num_groups)
    ends = Stream(config, widths[-1], [most], float(np.square(code.deviations).sum()))
    found = {"encoder.conv_in.kernel": tapped(params["encoder.conv_in.kernel"], np.eye(3))}
    # What the first channels are of the pixels in a square, and where they lie.
    functions, places = np.eye(3).reshape(3, 1, 1, 3), np.arange(3)
    constants = ""
    for i, width in enumerate(widths):
        shortcut = f"encoder.down_blocks.{i}.resnets.0.conv_shortcut"
        if f"{shortcut}.kernel" in params:
            count = len(places)
            into = ends.parts[0][:count] if i == len(widths) - 1 else np.arange(count)
            kernel = params[f"{shortcut}.kernel"]
            found[f"{shortcut}.kernel"] = tapped(kernel, np.eye(count), places, into)
            places, constants = into, f"{shortcut}.bias"
        if i < len(widths) - 1:
            down = f"encoder.down_blocks.{i}.downsamplers.0.conv"
            if i == len(widths) - 2:
                wanted = code.analysis[: min(most, width)]
            else:
                wanted = _halved(functions).reshape(-1, *[2 * functions.shape[1]] * 2, 3)
                if len(wanted) > width:
                    wanted = principal_components(pixels, wanted.shape[1], width).analysis
            pieces = _halved(functions)
            taps = np.linalg.lstsq(
                pieces.reshape(-1, wanted[0].size).T, wanted.reshape(len(wanted), -1).T
            )[0]
            kernel = params[f"{down}.kernel"]
            straight = i == len(widths) - 2 and width == widths[-1]
            into = ends.parts[0][: len(wanted)] if straight else np.arange(len(wanted))
            found[f"{down}.kernel"] = tapped(
                kernel, taps.reshape(*pieces.shape[:3], len(wanted)), places, into
            )
            functions, places, constants = wanted, into, f"{down}.bias"
    found[constants] = ends.with_constants(params[constants])
    name = constants.replace("bias", "kernel")
    found[name] = found[name].at[..., ends.zeros].set(0)
    passed = np.ones(len(ends.used))
    found |= ends.norm("encoder.conv_norm_out", passed, LINEAR_AT * passed)
    read, taps = ends.against(places, np.eye(len(places)) / SLOPE, ends.zeros)
    kernel = jnp.zeros_like(params["encoder.conv_out.kernel"])
    found["encoder.conv_out.kernel"] = tapped(kernel, taps, read)
    found["quant_conv.kernel"] = jnp.eye(2 * latent)[None, None]
    found["quant_conv.bias"] = jnp.repeat(jnp.array([0, LOG_VARIANCE]), latent)
    return found


def _halved(functions: np.ndarray) -> np.ndarray:
    """Functions of squares at the four places in one of twice the side.

    Args:
      functions: [channels, side, side, 3].
    Returns:
      [2, 2, channels, 2 · side, 2 · side, 3].
    """
    count, side = functions.shape[:2]
    moved = np.zeros((2, 2, count, 2, side, 2, side, 3))
    for y in range(2):
        for x in range(2):
            moved[y, x, :, y, :, x] = functions
    return moved.reshape(2, 2, count, 2 * side, 2 * side, 3)


if __name__ == "__main__":
    main()
