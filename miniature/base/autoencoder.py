"""`python -m miniature.base.autoencoder --workdir DIR`: trains the miniature's VAE."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from safetensors.numpy import save_file

from instantid_jax.cli.program import program
from instantid_jax.components import network
from instantid_jax.json_files import write_json
from instantid_jax.models.vae import sample_latents
from instantid_jax.params import Network, Params
from instantid_jax.weights import names
from miniature.base.pictures import Pictures, drawn_pictures
from miniature.stage import Batch, Loss, Stage, train

# Of the pictures it learns from, and of those it is measured on; nothing else draws them.
SEED, HELD_OUT_SEED = 301, 302
STAGE = Stage(steps=6000, learning_rate=1e-3, weight_decay=0.0, save_every=250)
SETTINGS = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "sample_size": 128,
    "act_fn": "silu",
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 64, 64],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    # Latents are trained unscaled; what brings them to unit variance is measured at the end.
    "scaling_factor": 1.0,
}
# A face is what the identity is in; its pixels count so much more.
FACE_WEIGHT = 3.0
EDGE_WEIGHT = 1.0
KL_WEIGHT = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is trained, on what.

    Attributes:
      workdir: the run's folder; a second call goes on. The folder `vae` comes to lie in it.
      pictures: so many are drawn, a multiple of 200.
      batch: pictures in a batch.
      held_out: pictures to measure it on, a multiple of 200.
      processes: how many draw.
    """

    workdir: Path
    pictures: int = 20_000
    batch: int = 16
    held_out: int = 200
    processes: int = 2
    stage: Stage = STAGE


def main() -> None:
    with program("autoencoder"):
        train_autoencoder(SETTINGS, tyro.cli(Options, description=__doc__))


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
        net.init,
        make_loss(net),
        make_batches(pictures, options.batch, options.stage.seed),
    )
    latents, psnr = _measure(net, params, held_out.pixels)
    folder = options.workdir / "vae"
    folder.mkdir(exist_ok=True)
    stored = {k: np.asarray(v, np.float16) for k, v in names.to_torch(params).items()}
    save_file(stored, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    write_json(
        folder / "config.json", settings | {"scaling_factor": round(1 / float(latents.std()), 5)}
    )
    print(json.dumps({"pictures": options.held_out, "psnr": psnr}))


def make_batches(pictures: Pictures, size: int, seed: int) -> Callable[[int], Batch]:
    """Pictures and where their faces are, by the step."""

    def batch_at(step: int) -> Batch:
        chosen = np.random.default_rng([seed, step]).integers(0, len(pictures.pixels), size)
        return {"pixels": pictures.pixels[chosen], "bboxes": pictures.bboxes[chosen]}

    return batch_at


def make_loss(net: Network) -> Loss:
    """Absolute error of pixels and of their edges, and a little of the KL divergence."""

    def loss(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        pictures = batch["pixels"].astype(jnp.float32) / 127.5 - 1
        vae = net.bind(params)
        moments = vae.moments(pictures)
        noise = jax.random.normal(key, (*moments.shape[:-1], moments.shape[-1] // 2))
        error = vae.decode(sample_latents(net.config, moments, noise)) - pictures
        weight = face_weight(batch["bboxes"], pictures.shape[1:3])
        pixels = jnp.mean(jnp.abs(error) * weight)
        edges = sum(
            jnp.mean(jnp.abs(jnp.diff(error, axis=axis)) * _inner(weight, axis)) for axis in (1, 2)
        )
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        divergence = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)
        total = pixels + EDGE_WEIGHT * edges + KL_WEIGHT * divergence
        return total, {"pixels": pixels, "edges": edges, "kl": divergence}

    return loss


def face_weight(bboxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[B, H, W, 1]: `FACE_WEIGHT` inside the box, 1 elsewhere."""
    y, x = jnp.mgrid[: size[0], : size[1]][:, None]
    left, top, right, bottom = jnp.moveaxis(bboxes[:, :, None, None], 1, 0)
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return jnp.where(inside, FACE_WEIGHT, 1.0)[..., None]


def _inner(weight: jax.Array, axis: int) -> jax.Array:
    """Of pixels that have a neighbour before them."""
    return jax.lax.slice_in_dim(weight, 1, weight.shape[axis], axis=axis)


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
