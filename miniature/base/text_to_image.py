"""`python -m miniature.base.text_to_image --workdir DIR --vae DIR`: trains text encoders and UNet.

Trains them jointly on captions and pictures, unlike SDXL, which uses CLIP's pretrained text
encoders. Together with the VAE they are the base model of the miniature's InstantID.
"""

import dataclasses
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import tyro

from instantid_jax.atomic import new_folder
from instantid_jax.cli.entry import entry
from instantid_jax.components import network
from instantid_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
from instantid_jax.json_files import read_json, write_json
from instantid_jax.params import split_parts
from instantid_jax.prompt import PromptTokenizer
from instantid_jax.runs.folder import RunFolder
from instantid_jax.weights import layouts
from instantid_jax.weights.layouts import find_network
from miniature.base import denoising
from miniature.base.architecture import (
    DEFAULTS,
    PIPELINE,
    SCHEDULER,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    UNET,
)
from miniature.base.latents import channel_effects, encoded_pictures, encoder_name
from miniature.base.published import write_network
from miniature.base.tokenizer import POSITIONS, write_tokenizer
from miniature.options import PictureOptions
from miniature.stage import Stage, train

# Seed of the first format's pictures; the others have the next ones. Not used elsewhere.
SEED = 401
STAGE = Stage(steps=4500, learning_rate=1e-3, warmup_steps=200)
SETTINGS = {"unet": UNET, "text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER_2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(PictureOptions):
    """Training settings of the base model.

    Attributes:
      vae: the folder that `python -m miniature.base.autoencoder` wrote.
      start: an `sdxl` folder; a new run starts from its tokenizer, text encoders and UNet. None
        starts from random parameters.
      face_weight: extra weight of latents in the face's box.
      weight_channels: weight each latent channel's squared error by the channel's effect on the
        decoded pixels.
    """

    vae: Path
    start: Path | None = None
    face_weight: float = 0.0
    weight_channels: bool = False
    pictures: int = 24_000
    batch: int = 32
    stage: Stage = STAGE


def main() -> None:
    with entry("text_to_image"):
        train_text_to_image(SETTINGS, tyro.cli(Options, description=__doc__))


def train_text_to_image(settings: Mapping[str, Mapping[str, Any]], options: Options) -> None:
    """Draws, encodes, trains, and writes `sdxl` in diffusers' layout, including the VAE.

    Args:
      settings: configurations of the UNet and both text encoders, without the vocabulary and the
        latent channels, which the tokenizer and the VAE determine.
    """
    vae = find_network(str(options.vae), "vae")
    words_folder = options.workdir / "tokenizer"
    # Keep the run's tokenizer: a new one may number tokens differently, as ties come in any order.
    if not words_folder.exists():
        with new_folder(words_folder) as folder:
            write_tokenizer(folder)
    vocabulary = len(read_json(words_folder / "vocab.json"))
    words = {
        "vocab_size": vocabulary,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
    channels = vae.network.config.latent_channels
    latent = {"in_channels": channels, "out_channels": channels}
    settings = {
        name: dict(each) | (words if name.startswith("text") else latent)
        for name, each in settings.items()
    }
    networks = {name: network(name, each) for name, each in settings.items()}
    networks |= {"vae": vae.network}
    # Load before drawing, to report a mismatch at once.
    start_params = None
    if options.start is not None:
        start_params = denoising.load(networks, options.start)
        # A resumed run keeps its tokenizer; `train` rejects it if this one differs.
        if not RunFolder(options.workdir).steps():
            shutil.copytree(options.start / "tokenizer", words_folder, dirs_exist_ok=True)
        words_folder = options.start / "tokenizer"
    vae_params = vae.load(jnp.dtype("float32"))
    latents = encoded_pictures(
        options.workdir,
        options.pictures,
        SEED,
        options.processes,
        vae.network,
        vae_params,
    )
    tokenizer = PromptTokenizer(words_folder, positions=POSITIONS, vocabulary=vocabulary)
    vocabulary_crc = zlib.crc32((words_folder / "vocab.json").read_bytes())
    params = train(
        options.stage,
        options.workdir,
        lambda key: denoising.init(networks, key) if start_params is None else start_params,
        denoising.make_loss(
            networks,
            alphas_cumprod(ScheduleConfig.from_dict(SCHEDULER)),
            options.face_weight,
            channel_effects(vae.network, vae_params) if options.weight_channels else 1.0,
        ),
        denoising.make_batches(latents, tokenizer, options.batch, options.stage.seed),
        f"{options.data}, words {vocabulary_crc:08x}, latents of {encoder_name(vae_params)}, "
        f"face weight {options.face_weight}, channel weights {options.weight_channels}",
    )
    shutil.rmtree(options.workdir / "sdxl", ignore_errors=True)
    with new_folder(options.workdir / "sdxl") as folder:
        for name, part in split_parts(params).items():
            stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
            write_network(folder / name, stem, settings[name], part)
        shutil.copytree(options.vae, folder / "vae")
        for name in ("tokenizer", "tokenizer_2"):
            shutil.copytree(words_folder, folder / name)
        (folder / "scheduler").mkdir()
        write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
        write_json(folder / "model_index.json", PIPELINE)
        write_json(folder / layouts.DEFAULTS, DEFAULTS)


if __name__ == "__main__":
    main()
