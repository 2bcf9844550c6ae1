"""The base model's training data: drawn portraits, encoded once by its VAE."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from instantid_jax.atomic import replacing_file
from instantid_jax.params import Network, Params
from miniature.base.pictures import drawn_pictures
from train.data.latent_cache import vae_fingerprint
from train.objective import image_moments

# Pictures encoded at a time.
BATCH = 50


class Latents(NamedTuple):
    """N encoded portraits.

    Attributes:
      moments: float16 [N, 16, 16, 2C], mean and log-variance of the VAE's posterior.
      captions: [N] strings.
      bboxes: float32 [N, 4], the first face of each picture, in pixels.
      vae: hash of the encoder.
    """

    moments: np.ndarray
    captions: np.ndarray
    bboxes: np.ndarray
    vae: str


def encoded_pictures(
    folder: Path, count: int, seed: int, processes: int, vae: Network, params: Params
) -> Latents:
    """Portraits of a seed; draws and encodes those missing in `folder`.

    Args:
      count: a multiple of 50.
    """
    pictures = drawn_pictures(folder / "pictures", count, seed, processes)
    encoder = vae_fingerprint(params)[:16]
    path = folder / f"moments-{count}-{encoder}.npy"
    if not path.exists():
        encode = jax.jit(lambda params, pixels: image_moments(vae, params, pixels))
        moments = [
            np.asarray(encode(params, part), np.float16)
            for part in tqdm(np.split(pictures.pixels, range(BATCH, count, BATCH)), unit="batch")
        ]
        with replacing_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(moments))
    return Latents(np.load(path), pictures.captions, pictures.bboxes[:, 0], encoder)
