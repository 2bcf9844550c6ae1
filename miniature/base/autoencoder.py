"""`python -m miniature.base.autoencoder --workdir DIR`: trains the miniature's VAE."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from instantid_jax.cli.entry import entry
from instantid_jax.components import network
from instantid_jax.models.vae import sample_latents
from instantid_jax.params import Network, Params
from miniature.base.architecture import VAE
from miniature.base.pictures import Pictures, drawn_pictures
from miniature.base.published import write_network
from miniature.options import PictureOptions
from miniature.stage import Batch, Loss, Stage, train

# Of the pictures it learns from, and of those it is measured on; nothing else draws them.
SEED, HELD_OUT_SEED = 301, 302
STAGE = Stage(steps=10_000, learning_rate=5e-4, weight_decay=0.0, save_every=500)
# A face is what the identity is in; its pixels count so much more.
FACE_WEIGHT = 3.0
# Light, blue against yellow, green against magenta: directions in RGB, times how much each counts.
# Colours vary less than light, yet captions name them.
OPPONENT_COLORS = np.array([[1, 1, 1], [-1, 0, 1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
COLOR_ERRORS = (np.array([[1.0], [1.5], [2.0]]) * OPPONENT_COLORS).astype(np.float32)
KL_WEIGHT = 1e-4
# Of the posterior at first: with the usual 0 there is as much noise as signal, and little to learn.
LOG_VARIANCE = -6.0
# Side of a window, and how far its middle strays from a face's, in pixels.
WINDOW, WANDER = 64, 24.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(PictureOptions):
    """As of any training on pictures.

    Attributes:
      batch: windows in a batch, of which a whole picture counts four.
      held_out: pictures to measure it on, a multiple of 50.
    """

    pictures: int = 20_000
    batch: int = 8
    held_out: int = 200
    stage: Stage = STAGE


def main() -> None:
    with entry("autoencoder"):
        train_autoencoder(VAE, tyro.cli(Options, description=__doc__))


def train_autoencoder(settings: dict[str, Any], options: Options) -> None:
    """Draws, trains, writes `vae` as diffusers publishes it, and prints how well it restores."""
    net = network("vae", settings)
    pictures, held_out = (
        drawn_pictures(options.workdir / name, count, seed, options.processes)
        for name, count, seed in (
            ("pictures", options.pictures, SEED),
            ("held-out", options.held_out, HELD_OUT_SEED),
        )
    )
    params = train(
        options.stage,
        options.workdir,
        functools.partial(init, net),
        make_loss(net),
        make_batches(pictures, options.batch, options.stage.seed),
        options.data,
    )
    latents, psnr = _measure(net, params, held_out.pixels)
    # Each channel to zero mean and unit variance, as the noise that is added.
    moments = {
        "latents_mean": latents.mean((0, 1, 2)).round(5).tolist(),
        "latents_std": latents.std((0, 1, 2)).round(5).tolist(),
    }
    write_network(options.workdir / "vae", "diffusion_pytorch_model", settings | moments, params)
    print(json.dumps({"pictures": options.held_out, "psnr": psnr}))


def make_batches(pictures: Pictures, size: int, seed: int) -> Callable[[int], Batch]:
    """Pixels and where the faces in them are, by the step.

    Every other batch is of windows near faces, so that as many pixels show four times as many
    pictures; between them come whole pictures, whose norms have other statistics.
    """
    side = pictures.pixels.shape[1]

    def batch_at(step: int) -> Batch:
        random = np.random.default_rng([seed, step])
        if step % 2:
            chosen = random.integers(0, len(pictures.pixels), size // 4)
            return {"pixels": pictures.pixels[chosen], "bboxes": pictures.bboxes[chosen]}
        chosen = random.integers(0, len(pictures.pixels), size)
        bboxes = pictures.bboxes[chosen]
        middles = (bboxes[:, :2] + bboxes[:, 2:]) / 2 + random.uniform(-WANDER, WANDER, (size, 2))
        corners = np.clip(middles - WINDOW / 2, 0, side - WINDOW).astype(int)
        windows = [
            pictures.pixels[i, top : top + WINDOW, left : left + WINDOW]
            for i, (left, top) in zip(chosen, corners, strict=True)
        ]
        return {
            "pixels": np.stack(windows),
            "bboxes": (bboxes - np.tile(corners, 2)).astype(np.float32),
        }

    return batch_at


def init(net: Network, key: jax.Array) -> Params:
    """Fresh parameters through which colours pass: a chain of rotations, all else adding nothing.

    Random convolutions one after the other keep the strongest direction, light, and lose the
    others; the network would learn green against magenta thousands of steps later.
    """
    params = {
        name: _isometric(name, value, jax.random.fold_in(key, i))
        for i, (name, value) in enumerate(net.init(key).items())
    }
    channels = net.config.latent_channels
    bias = params["quant_conv.bias"].at[channels:].set(LOG_VARIANCE)
    return params | {"quant_conv.bias": bias}


def _isometric(name: str, value: jax.Array, key: jax.Array) -> jax.Array:
    """A fresh parameter, in place of the layer's own.

    Source: Xiao et al. 2018, delta-orthogonal convolutions; Zhang et al. 2019 (Fixup), branches
    whose last layer is zero.
    """
    if name.endswith(("conv2.kernel", "to_out.0.kernel")):
        return jnp.zeros_like(value)
    if name.endswith("conv_norm_out.bias"):
        # There SiLU is nearly linear.
        return jnp.full_like(value, 2)
    if value.ndim == 4 and not name.endswith("conv1.kernel"):
        height, width, *channels = value.shape
        rotation = jax.nn.initializers.orthogonal()(key, channels)
        return jnp.zeros_like(value).at[height // 2, width // 2].set(rotation)
    return value


def make_loss(net: Network) -> Loss:
    """Absolute and squared error of the pixels, and a little of the KL divergence."""

    def loss(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        pictures = batch["pixels"].astype(jnp.float32) / 127.5 - 1
        vae = net.bind(params)
        moments = vae.moments(pictures)
        noise = jax.random.normal(key, (*moments.shape[:-1], moments.shape[-1] // 2))
        error = vae.decode(sample_latents(net.config, moments, noise)) - pictures
        error = error @ COLOR_ERRORS.T
        weight = face_weight(batch["bboxes"], pictures.shape[1:3])
        absolute = jnp.mean(jnp.abs(error) * weight)
        squared = jnp.mean(jnp.square(error) * weight)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        divergence = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)
        metrics = {"absolute": absolute, "squared": squared, "kl": divergence}
        return absolute + squared + KL_WEIGHT * divergence, metrics

    return loss


def face_weight(bboxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[B, H, W, 1]: `FACE_WEIGHT` inside the box, 1 elsewhere."""
    y, x = jnp.mgrid[: size[0], : size[1]][:, None]
    left, top, right, bottom = jnp.moveaxis(bboxes[:, :, None, None], 1, 0)
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return jnp.where(inside, FACE_WEIGHT, 1.0)[..., None]


def _measure(net: Network, params: Params, pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Latents of pictures, and the PSNR of what is decoded from them, in dB."""

    @jax.jit
    def restore(params: Params, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        vae = net.bind(params)
        latents = vae.encode(pictures)
        return latents, jnp.clip(vae.decode(latents), -1, 1)

    found, errors = [], []
    for part in np.split(pixels, range(50, len(pixels), 50)):
        pictures = part.astype(np.float32) / 127.5 - 1
        latents, restored = restore(params, pictures)
        found.append(np.asarray(latents))
        errors.append(np.square(np.asarray(restored) - pictures).mean((1, 2, 3)))
    return np.concatenate(found), float((10 * np.log10(4 / np.concatenate(errors))).mean())


if __name__ == "__main__":
    main()
