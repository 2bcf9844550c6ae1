"""Joint training of text encoders and UNet: predicting the velocity of noisy latents."""

from collections.abc import Callable, Mapping, Sequence
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
# Share of captions replaced by the empty one, for guidance.
DROP_CAPTION = 0.1
# Mean and deviation of ln(noise / signal). From 32 channels, a face can still be restored with
# twice as much noise as signal; where its parts are is decided at higher noise.
LOG_NOISE = (1.1, 1.2)


def init(networks: Mapping[str, Network], key: jax.Array) -> Params:
    """Initial parameters, with the part as a prefix of each name; the UNet predicts zero."""
    parts = {}
    for i, part in enumerate(PARTS):
        fresh = networks[part].init(jax.random.fold_in(key, i))
        parts[part] = {name: fresh[name] for name in component_shapes(part, networks[part])}
    params = join_parts(parts)
    for name in ("unet.conv_out.kernel", "unet.conv_out.bias"):
        params[name] = jnp.zeros_like(params[name])
    return params


def load(networks: Mapping[str, Network], folder: Path) -> Params:
    """Loads the parameters of all parts from a folder in diffusers' layout, as float32.

    Raises:
      InputError: if a part is missing or has another configuration.
    """
    found = find_sdxl(str(folder)).components
    for part in PARTS:
        if found[part].network != networks[part]:
            raise InputError(
                f"{folder}: the config.json of its {part} differs from this training's: use a "
                "folder that this program wrote"
            )
    return join_parts({part: found[part].load(jnp.dtype("float32")) for part in PARTS})


def make_batches(
    formats: Sequence[Latents], tokenizer: PromptTokenizer, size: int, seed: int
) -> Callable[[int], Batch]:
    """Returns a function from the step to latents, face boxes and caption tokens.

    Each batch has one format, as often as its share of the pictures.

    Args:
      size: pictures per batch of the first format; larger ones have fewer, of as many pixels.
    """
    tokens = [tokenizer(each.captions.tolist()) for each in formats]
    (empty,) = tokenizer([""])
    shares = np.array([len(each) for each in tokens]) / sum(map(len, tokens))
    areas = [each.moments[0, ..., 0].size for each in formats]

    def batch_at(step: int) -> Batch:
        random = np.random.default_rng([seed, step])
        number = random.choice(len(formats), p=shares)
        latents = formats[number]
        count = max(1, round(size * areas[0] / areas[number]))
        chosen = random.integers(0, len(latents.moments), count)
        dropped = random.random(count) < DROP_CAPTION
        ids = np.where(dropped[:, None], empty, tokens[number][chosen])
        return {
            "moments": latents.moments[chosen],
            "face_box": latents.bboxes[chosen],
            "input_ids": ids,
        }

    return batch_at


def draw_timesteps(key: jax.Array, alphas_cumprod: np.ndarray, count: int) -> jax.Array:
    """Samples timesteps [count] int32, most of them by `LOG_NOISE`.

    The logarithm of noise to signal is normal (Karras et al. 2022, table 1): nearly clean and
    nearly pure noise inputs are hard to improve on. An eighth is uniform, so that every timestep
    occurs.

    Args:
      alphas_cumprod: [T] float32.
    """
    mean, deviation = LOG_NOISE
    at_level, at_all = jax.random.split(key)
    # Stratified sampling: batches differ less.
    parts = (jax.random.uniform(at_level) + jnp.arange(count) / count) % 1
    leveled = timesteps_of_noise(alphas_cumprod, mean + deviation * ndtri(parts))
    alike = jax.random.randint(at_all, (count,), 0, len(alphas_cumprod))
    return jnp.where(jnp.arange(count) % 8 == 0, alike, leveled)


def time_ids(shape: Sequence[int], downscale: int) -> jax.Array:
    """[B, 6]: original size, crop and target size of latents [B, H, W, C], as in a pipeline."""
    size = [float(downscale * side) for side in shape[1:3]]
    return jnp.tile(jnp.array([[*size, 0.0, 0.0, *size]]), (shape[0], 1))


def make_loss(
    networks: Mapping[str, Network],
    alphas_cumprod: np.ndarray,
    face_weight: float = 0.0,
    channel_weights: np.ndarray | float = 1.0,
) -> Loss:
    """Returns the squared error of the velocity.

    Args:
      networks: the networks of `PARTS`, and the VAE, which defines the scaling of latents.
      alphas_cumprod: [T] float32.
      face_weight: extra weight of latents in the face's box, as in InstantID's training.
      channel_weights: weights of the latent channels' errors, [C] or the same for all.
    """
    objective = ObjectiveConfig(prediction_type="v_prediction", face_weight=face_weight)
    unet, first, second = (networks[part] for part in PARTS)
    id_branch = component_shapes("ip_adapter", unet)
    roots = np.sqrt(np.reshape(channel_weights, (1, 1, 1, -1)))

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
        # Without a person, the ID branch outputs zeros.
        zeros = {name: jnp.zeros(s.shape, s.dtype) for name, s in id_branch.items()}
        bound = unet.bind(parts["unet"] | zeros)
        prediction = bound(
            add_noise(alphas_cumprod, latents, noise, timesteps),
            timesteps.astype(jnp.float32),
            bound.keys_values(text, jnp.zeros_like(text[:, :1]), jnp.zeros(())),
            bound.embed_added(encoded_2.pooled, time_ids(shape, networks["vae"].config.downscale)),
        )
        # The velocity is linear in latents and noise, so the root scales its error.
        scaled = (each * roots for each in (prediction, latents, noise))
        face_box = batch["face_box"] / networks["vae"].config.downscale
        each = losses(objective, jnp.asarray(alphas_cumprod), *scaled, timesteps, face_box)
        return each.mean(), {}

    return loss
