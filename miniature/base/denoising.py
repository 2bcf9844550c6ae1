"""What text encoders and UNet learn together: the velocity of noisy latents, from captions."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from instantid_jax.components import component_shapes
from instantid_jax.diffusion.schedule import add_noise, timesteps_of_noise
from instantid_jax.errors import InputError
from instantid_jax.models.vae import sample_latents
from instantid_jax.params import Network, Params, join_parts, split_parts
from instantid_jax.prompt import PromptTokenizer
from instantid_jax.weights.layouts import find_sdxl
from miniature.base.latents import Latents
from miniature.stage import Batch, Loss
from train.objective import ObjectiveConfig, losses

PARTS = ("unet", "text_encoder", "text_encoder_2")
# The empty caption, for guidance.
DROP_CAPTION = 0.1
# Original size, crop and target size: what a pipeline says of a whole picture of 128 pixels.
TIME_IDS = (128.0, 128.0, 0.0, 0.0, 128.0, 128.0)


def init(networks: Mapping[str, Network], key: jax.Array) -> Params:
    """Fresh parameters of all parts, each named after its own; the UNet predicts zero."""
    parts = {}
    for i, part in enumerate(PARTS):
        fresh = networks[part].init(jax.random.fold_in(key, i))
        parts[part] = {name: fresh[name] for name in component_shapes(part, networks[part])}
    params = join_parts(parts)
    for name in ("unet.conv_out.kernel", "unet.conv_out.bias"):
        params[name] = jnp.zeros_like(params[name])
    return params


def load(networks: Mapping[str, Network], folder: Path) -> Params:
    """Parameters of all parts from a folder in diffusers' layout, float32.

    Raises:
      InputError: if something is missing there, or another network.
    """
    found = find_sdxl(str(folder)).components
    for part in PARTS:
        if found[part].network != networks[part]:
            raise InputError(
                f"{folder}: the config.json of its {part} is another than this training's: begin "
                "with what this program wrote"
            )
    return join_parts({part: found[part].load(jnp.dtype("float32")) for part in PARTS})


def make_batches(
    latents: Latents, tokenizer: PromptTokenizer, size: int, seed: int
) -> Callable[[int], Batch]:
    """Encoded portraits, their faces' boxes and their captions' tokens, by the step."""
    tokens = tokenizer(latents.captions.tolist())
    (empty,) = tokenizer([""])

    def batch_at(step: int) -> Batch:
        random = np.random.default_rng([seed, step])
        chosen = random.integers(0, len(tokens), size)
        dropped = random.random(size) < DROP_CAPTION
        ids = np.where(dropped[:, None], empty, tokens[chosen])
        return {
            "moments": latents.moments[chosen],
            "face_box": latents.bboxes[chosen],
            "input_ids": ids,
        }

    return batch_at


def draw_timesteps(key: jax.Array, alphas_cumprod: np.ndarray, count: int) -> jax.Array:
    """Timesteps [count] int32, most of them where there is about as much noise as picture.

    The logarithm of noise to signal is normal (Karras et al. 2022, table 1), here with mean 0 and
    deviation 1: much of what is nearly clean or nearly noise cannot be predicted, and teaches
    little. An eighth is drawn from all timesteps alike, so that none is left out.

    Args:
      alphas_cumprod: [T] float32.
    """
    at_level, at_all = jax.random.split(key)
    # One number for each equal part of the distribution: batches differ less.
    parts = (jax.random.uniform(at_level) + jnp.arange(count) / count) % 1
    leveled = timesteps_of_noise(alphas_cumprod, ndtri(parts))
    alike = jax.random.randint(at_all, (count,), 0, len(alphas_cumprod))
    return jnp.where(jnp.arange(count) % 8 == 0, alike, leveled)


def make_loss(
    networks: Mapping[str, Network], alphas_cumprod: np.ndarray, face_weight: float = 0.0
) -> Loss:
    """Squared error of the velocity.

    Args:
      networks: of `PARTS`, and the VAE's, which tells how latents are scaled.
      alphas_cumprod: [T] float32.
      face_weight: as InstantID's training has it.
    """
    objective = ObjectiveConfig(prediction_type="v_prediction", face_weight=face_weight)
    unet, first, second = (networks[part] for part in PARTS)
    id_branch = component_shapes("ip_adapter", unet)

    def loss(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        parts = split_parts(params)
        at_encoding, at_noise, at_time = jax.random.split(key, 3)
        shape = (*batch["moments"].shape[:-1], unet.config.in_channels)
        noise = jax.random.normal(at_noise, shape)
        latents = sample_latents(
            networks["vae"].config, batch["moments"], jax.random.normal(at_encoding, shape)
        )
        timesteps = draw_timesteps(at_time, alphas_cumprod, shape[0])

        ids = batch["input_ids"]
        encoded = first.bind(parts["text_encoder"])(ids)
        encoded_2 = second.bind(parts["text_encoder_2"])(ids)
        text = jnp.concatenate([encoded.hidden_states, encoded_2.hidden_states], axis=-1)
        # Nobody is asked for: the ID branch gives zeros.
        zeros = {name: jnp.zeros(s.shape, s.dtype) for name, s in id_branch.items()}
        bound = unet.bind(parts["unet"] | zeros)
        prediction = bound(
            add_noise(alphas_cumprod, latents, noise, timesteps),
            timesteps.astype(jnp.float32),
            bound.keys_values(text, jnp.zeros_like(text[:, :1]), jnp.zeros(())),
            bound.embed_added(encoded_2.pooled, jnp.tile(jnp.array([TIME_IDS]), (shape[0], 1))),
        )
        face_box = batch["face_box"] / networks["vae"].config.downscale
        each = losses(
            objective, jnp.asarray(alphas_cumprod), prediction, latents, noise, timesteps, face_box
        )
        return each.mean(), {}

    return loss
