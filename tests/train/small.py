"""A small training problem: networks like the random model's, and a random batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.components import component_shapes, network
from instantid_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
from instantid_jax.params import Params, cast, join_parts
from train.networks import Networks
from train.random_model import RESAMPLER, SETTINGS, draw_params
from train.step import Constants

UNET = SETTINGS["unet"] | {
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [1, 2],
    "transformer_layers_per_block": [1, 1],
    "layers_per_block": 1,
}
VAE = SETTINGS["vae"] | {
    "block_out_channels": [8, 8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
}

ONE_LAYER = {"num_hidden_layers": 1}


@functools.cache
def networks() -> Networks:
    return Networks(
        unet=network("unet", UNET),
        controlnet=network("controlnet", UNET),
        image_proj=network("image_proj", vars(RESAMPLER)),
        vae=network("vae", VAE),
        text_encoder=network("text_encoder", SETTINGS["text_encoder"] | ONE_LAYER),
        text_encoder_2=network("text_encoder_2", SETTINGS["text_encoder_2"] | ONE_LAYER),
    )


@functools.cache
def vae() -> Params:
    return drawn("vae", 1)


@functools.cache
def frozen() -> dict[str, Params]:
    parts = {"unet": drawn("unet", 0), "vae": vae()}
    for i, name in enumerate(("text_encoder", "text_encoder_2"), start=2):
        parts[name] = drawn(name, i)
    own = component_shapes("unet", networks().unet)
    parts["unet"] = {k: v for k, v in parts["unet"].items() if k in own}
    return parts


@functools.cache
def trainables() -> Params:
    """Trainables of unit gain, unlike newly initialized ones."""
    adapter = component_shapes("ip_adapter", networks().unet)
    parts = {name: drawn(name, 4) for name in ("image_proj", "controlnet")}
    parts["ip_adapter"] = {k: v for k, v in drawn("unet", 4).items() if k in adapter}
    return join_parts(parts)


def drawn(name: str, seed: int) -> Params:
    """Draws with NumPy, because compiling a network's own initialization takes long."""
    return jax.tree.map(jnp.asarray, draw_params(getattr(networks(), name), seed))


def constants(dtype: str = "float32") -> Constants:
    """`dtype` is that of the frozen networks and of the computation."""
    empty = np.full(77, 513, np.int32)
    empty[0] = 512
    schedule = jnp.asarray(alphas_cumprod(ScheduleConfig()))
    base = {name: cast(params, jnp.dtype(dtype)) for name, params in frozen().items()}
    return Constants(base, schedule, (jnp.asarray(empty), jnp.asarray(empty)))


def batch(rows: int, seed: int = 0, side: int = 64) -> dict[str, np.ndarray]:
    """A batch with cached latents, which avoids compiling the VAE's encoder."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, 512, (2, rows, 77)).astype(np.int32)
    ids[:, :, 20:] = 513
    return {
        "latent_moments": random.standard_normal((rows, side // 8, side // 8, 8)).astype(
            np.float32
        ),
        "keypoint_images": random.integers(0, 256, (rows, side, side, 3)).astype(np.uint8),
        "input_ids": ids[0],
        "input_ids_2": ids[1],
        "id_embeds": random.standard_normal((rows, 512)).astype(np.float32),
        "time_ids": np.full((rows, 6), side, np.float32),
        "kps": np.tile(
            np.array([[26, 28], [38, 28], [32, 33], [28, 38], [36, 38]], np.float32), (rows, 1, 1)
        ),
        "face_box": np.tile(np.array([16, 16, 48, 48], np.float32), (rows, 1)),
        "example_crc32": random.integers(0, 2**32, rows, np.uint32),
        "face_share": np.linspace(0.02, 0.5, rows).astype(np.float32),
    }
