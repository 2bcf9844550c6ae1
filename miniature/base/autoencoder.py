"""`python -m miniature.base.autoencoder --workdir DIR`: trains the miniature's VAE."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from instantid_jax import embedded
from instantid_jax.cli.entry import entry
from instantid_jax.components import network
from instantid_jax.errors import InputError
from instantid_jax.models.vae import sample_latents
from instantid_jax.params import Network, Params
from instantid_jax.weights.layouts import find_network
from miniature.base import linear_chain, linear_start
from miniature.base.architecture import VAE
from miniature.base.linear_chain import OPPONENT_COLORS
from miniature.base.perceptual import make_perceptual_error
from miniature.base.pictures import Mixture, Pictures, drawn_pictures
from miniature.base.published import write_network
from miniature.drawing.scene import CLOSE
from miniature.evaluation.fidelity import face_sharpness, psnr
from miniature.options import PictureOptions
from miniature.stage import Batch, Loss, Stage, train
from train.data.latent_cache import vae_fingerprint

PictureError = Callable[[jax.Array, jax.Array], jax.Array]

# Seeds of the pictures it is trained and measured on; nothing else draws from these.
SEED, HELD_OUT_SEED = 301, 302
STAGE = Stage(steps=6000, learning_rate=1e-3, weight_decay=0.0, save_every=250)
LINEAR = Stage(steps=2500, learning_rate=1e-3, weight_decay=0.0, save_every=500)
# Groups among the pictures keep small faces.
TRAINED, MEASURED = Mixture(framing=CLOSE, groups=8), Mixture(framing=CLOSE)
# Pictures that calibrate the linear code.
SHOWN = 100
# What the second training trains: the decoder's branches. The linear code stays, because its norms
# would change with every step; so do the latents.
BRANCHES = re.compile(r"decoder\..*(resnets\.\d+\.(norm|conv)[12]|attentions\.\d+)\.")
# The last layer of a branch, whose weights count a tenth while training. They begin with zero, and
# many of them change each pixel alike: in full, the first steps undo the linear code.
BRANCH_ENDS = ("conv2.kernel", "to_out.0.kernel")
BRANCH_SCALE = 0.1
# Weight of a face's pixels, because the identity is in them.
FACE_WEIGHT = 3.0
# Weights of errors in light and in both color directions: colors vary less, yet captions name them.
COLOR_ERRORS = (np.array([[1.0], [1.5], [2.0]]) * OPPONENT_COLORS).astype(np.float32)
PERCEPTUAL_WEIGHT = 0.5
# Otherwise grain and hatching, which latents do not hold pixel by pixel, are smoothed away.
TEXTURE_WEIGHT = 1.0
# Sides of the squares around a pixel: in which it is compared with the mean, and in which the
# strength of its texture is measured.
FINE, COARSE = 3, 7
KL_WEIGHT = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(PictureOptions):
    """The options of any training on pictures, and those of the VAE.

    Attributes:
      latent_channels: latents per 8 x 8 pixels.
      start: a folder that this program wrote, with the VAE to start from; None trains a linear code
        first and starts from that.
      recognizer: an ONNX file of a face pack; its features give the perceptual error.
      batch: pictures per batch.
      held_out: number of pictures to measure it on, a multiple of 50.
      linear: the training of the linear code.
    """

    latent_channels: Literal[16, 24, 32] = 32
    start: Path | None = None
    recognizer: Path = embedded.FACE_PACK / "recogniser.onnx"
    pictures: int = 20_000
    batch: int = 4
    held_out: int = 200
    linear: Stage = LINEAR
    stage: Stage = STAGE


def main() -> None:
    with entry("autoencoder"):
        train_autoencoder(VAE, tyro.cli(Options, description=__doc__))


def train_autoencoder(settings: dict[str, Any], options: Options) -> None:
    """Draws, trains, writes `vae` as diffusers publishes it, and prints how well it restores."""
    settings = settings | {"latent_channels": options.latent_channels}
    net = network("vae", settings)
    # Before the pictures are drawn, so that a VAE that does not fit is reported at once.
    start = None if options.start is None else load(net, options.start)
    perceptual_error = make_perceptual_error(options.recognizer)
    pictures, held_out = (
        drawn_pictures(options.workdir / name, count, seed, options.processes, mixture)
        for name, count, seed, mixture in (
            ("pictures", options.pictures, SEED, TRAINED),
            ("held-out", options.held_out, HELD_OUT_SEED, MEASURED),
        )
    )
    if start is None:
        start = train_linear(net, pictures, options)
    trained = train(
        options.stage,
        options.workdir,
        lambda _: as_trained(start),
        make_loss(net, perceptual_error),
        make_batches(pictures, options.batch, options.stage.seed),
        f"{options.data}, {options.latent_channels} latent channels, begun with "
        f"{vae_fingerprint(start)[:16]}",
    )
    publish(net, settings, scaled(trained), held_out, options.workdir)


def train_linear(net: Network, pictures: Pictures, options: Options) -> Params:
    """A VAE that encodes and decodes linearly, trained in the folder `linear`."""
    kernels = train(
        options.linear,
        options.workdir / "linear",
        functools.partial(linear_chain.init, net.config),
        functools.partial(linear_chain.loss, net.config),
        make_batches(pictures, options.batch, options.linear.seed),
        options.data,
    )
    key = jax.random.key(options.linear.seed)
    return linear_start.init(net, key, kernels, pictures.pixels[:SHOWN])


def publish(
    net: Network, settings: Mapping[str, Any], params: Params, held_out: Pictures, workdir: Path
) -> None:
    """Writes `vae` as diffusers publishes it, and prints how well it restores held-out pictures."""
    latents, restored = _restored(net, params, held_out.pixels)
    # Each channel to zero mean and unit variance, as the noise that is added.
    moments = {
        "latents_mean": latents.mean((0, 1, 2)).round(5).tolist(),
        "latents_std": latents.std((0, 1, 2)).round(5).tolist(),
    }
    write_network(workdir / "vae", "diffusion_pytorch_model", {**settings, **moments}, params)
    sharp, drawn = (
        np.median(face_sharpness(each, held_out.bboxes[:, 0]))
        for each in (restored, held_out.pixels)
    )
    print(
        json.dumps(
            {
                "pictures": len(restored),
                "psnr": round(float(psnr(restored, held_out.pixels).mean()), 3),
                "sharpness": round(float(sharp / drawn), 4),
            }
        )
    )


def load(net: Network, folder: Path) -> Params:
    """Parameters of a VAE in diffusers' layout, float32.

    Raises:
      InputError: if the folder has none, or one of other sizes.
    """
    found = find_network(str(folder), "vae")
    # The moments are measured again.
    sizes = dataclasses.replace(found.network.config, latents_mean=None, latents_std=None)
    if sizes != net.config:
        raise InputError(
            f"{folder}: the config.json of its VAE has other sizes than this training: give a "
            "folder that this program wrote, and its --latent-channels"
        )
    return found.load(jnp.dtype("float32"))


def make_batches(pictures: Pictures, size: int, seed: int) -> Callable[[int], Batch]:
    """Pixels, and where the faces in them are, by the step.

    Whole pictures, because the norms of the branches have other statistics in parts of them.
    """

    def batch_at(step: int) -> Batch:
        chosen = np.random.default_rng([seed, step]).integers(0, len(pictures.pixels), size)
        return {"pixels": pictures.pixels[chosen], "bboxes": pictures.bboxes[chosen]}

    return batch_at


def as_trained(vae: Params) -> Params:
    """A VAE's parameters as the optimizer sees them; `scaled` is the inverse."""
    return {n: value / BRANCH_SCALE if is_branch_end(n) else value for n, value in vae.items()}


def scaled(trained: Params) -> Params:
    """The VAE's parameters out of those that are trained, the frozen ones without gradients."""
    vae = {n: value * BRANCH_SCALE if is_branch_end(n) else value for n, value in trained.items()}
    frozen = {n: jax.lax.stop_gradient(value) for n, value in vae.items() if not BRANCHES.search(n)}
    return vae | frozen


def is_branch_end(name: str) -> bool:
    return name.endswith(BRANCH_ENDS) and BRANCHES.search(name) is not None


def make_loss(net: Network, perceptual_error: PictureError) -> Loss:
    """Errors of pixels, texture and features, and a little of the KL divergence.

    Source: Rombach et al. 2022, appendix G.
    """

    def loss(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        pictures = batch["pixels"].astype(jnp.float32) / 127.5 - 1
        weight = face_weight(batch["bboxes"], pictures.shape[1:3])
        vae = net.bind(scaled(params))
        moments = vae.moments(pictures)
        noise = jax.random.normal(key, (*moments.shape[:-1], moments.shape[-1] // 2))
        restored = vae.decode(sample_latents(net.config, moments, noise))

        apart = (restored - pictures) @ COLOR_ERRORS.T
        textures = texture(restored) - texture(pictures)
        inset = (pictures.shape[1] - textures.shape[1]) // 2
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        errors = {
            "absolute": jnp.mean(jnp.abs(apart) * weight),
            "squared": jnp.mean(jnp.square(apart) * weight),
            "texture": jnp.mean(jnp.abs(textures) * weight[:, inset:-inset, inset:-inset]),
            "perceptual": perceptual_error(restored, pictures),
            "kl": 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance),
        }
        total = errors["absolute"] + errors["squared"] + TEXTURE_WEIGHT * errors["texture"]
        total += PERCEPTUAL_WEIGHT * errors["perceptual"] + KL_WEIGHT * errors["kl"]
        return total, errors

    return loss


def texture(pictures: jax.Array) -> jax.Array:
    """Strength of the texture around each pixel, [B, H - 8, W - 8, 3], of pictures [B, H, W, 3].

    It is the root mean square of what the local mean leaves, whatever its phase.
    """

    def local_mean(x: jax.Array, side: int) -> jax.Array:
        window = (1, side, side, 1)
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1,) * 4, "VALID") / side**2

    inset = FINE // 2
    left = pictures[:, inset:-inset, inset:-inset] - local_mean(pictures, FINE)
    return jnp.sqrt(local_mean(jnp.square(left), COARSE) + 1e-6)


def face_weight(bboxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[B, H, W, 1]: `FACE_WEIGHT` inside the boxes [B, F, 4], 1 elsewhere and for boxes of NaN."""
    y, x = jnp.mgrid[: size[0], : size[1]][:, None, None]
    left, top, right, bottom = jnp.moveaxis(bboxes[..., None, None], 2, 0)
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return jnp.where(inside.any(1), FACE_WEIGHT, 1.0)[..., None]


def _restored(net: Network, params: Params, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latents of pictures, and the pictures uint8 that are decoded from them."""

    @jax.jit
    def restore(params: Params, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        vae = net.bind(params)
        latents = vae.encode(pictures.astype(jnp.float32) / 127.5 - 1)
        return latents, jnp.clip(jnp.round(127.5 * (vae.decode(latents) + 1)), 0, 255)

    parts = [restore(params, part) for part in np.split(pixels, range(50, len(pixels), 50))]
    latents, restored = (np.concatenate(each) for each in zip(*parts, strict=True))
    return latents, restored.astype(np.uint8)


if __name__ == "__main__":
    main()
