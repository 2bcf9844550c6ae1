"""The base model's training data: drawn pictures, encoded once by its VAE."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from instantid_jax.atomic import replacing_file
from instantid_jax.errors import InputError
from instantid_jax.params import Network, Params
from miniature.base.pictures import drawn_pictures, formats
from train.data.latent_cache import vae_fingerprint
from train.objective import image_moments

# Pictures encoded at a time.
BATCH = 50


class Latents(NamedTuple):
    """N encoded pictures of one size.

    Attributes:
      moments: float16 [N, H/8, W/8, 2C], mean and log-variance of the VAE's posterior.
      captions: [N] strings.
      bboxes: float32 [N, 4], the first face of each picture, in pixels.
    """

    moments: np.ndarray
    captions: np.ndarray
    bboxes: np.ndarray


def encoded_pictures(
    folder: Path, count: int, seed: int, processes: int, vae: Network, params: Params
) -> list[Latents]:
    """Pictures of a seed in all formats; draws and encodes those missing in `folder`.

    Args:
      count: pictures in all, a multiple of 500.
    """
    if count < 500 or count % 500:
        raise InputError(f"--pictures {count}: expected a multiple of 500")
    encode = jax.jit(lambda params, pixels: image_moments(vae, params, pixels))
    encoder, encoded = encoder_name(params), []
    for mixture, own_seed, number in formats(seed, count):
        name = "{}x{}".format(*mixture.size)
        drawn = folder / "pictures" / name
        pictures = drawn_pictures(drawn, number, own_seed, processes, mixture)
        path = folder / f"moments-{name}-{number}-{encoder}.npy"
        if not path.exists():
            moments = [
                np.asarray(encode(params, part), np.float16)
                for part in tqdm(
                    np.split(pictures.pixels, range(BATCH, number, BATCH)), unit="batch"
                )
            ]
            with replacing_file(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.concatenate(moments))
        encoded.append(Latents(np.load(path), pictures.captions, pictures.bboxes[:, 0]))
    return encoded


def encoder_name(vae: Params) -> str:
    """Identifies the encoder of a VAE's float32 parameters."""
    return vae_fingerprint(vae)[:16]


def channel_effects(vae: Network, params: Params) -> np.ndarray:
    """How far each latent channel moves the decoded pixels, relative to the channels' mean.

    Decodes zeros, in which one latent is changed by +1 and -1.

    Returns:
      [C] float32, the root mean square over both signs of the norm of the pixels' change, divided
        by its mean over the channels.
    """
    channels = vae.config.latent_channels
    decode = jax.jit(vae.bind(params).decode)
    moved = np.zeros((2 * channels, 16, 16, channels), np.float32)
    moved[:, 8, 8] = np.concatenate([np.eye(channels), -np.eye(channels)])
    change = np.asarray(decode(moved)) - np.asarray(decode(np.zeros_like(moved[:1])))
    squares = np.square(change).sum((1, 2, 3)).reshape(2, channels)
    effects = np.sqrt(squares.mean(0))
    return effects / effects.mean()
