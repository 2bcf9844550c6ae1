"""The training objective: the error of the frozen UNet's noise prediction with InstantID's parts.

Source: Wang et al. 2024 (InstantID), section 3.3: ‖ε − ε_θ(z_t, t, C, C_i)‖².
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from instantid_jax.diffusion.schedule import timesteps_of_noise, velocity_target
from instantid_jax.errors import InputError
from instantid_jax.models import instantid
from instantid_jax.models.blocks import Remat, keep
from instantid_jax.models.instantid import Texts, condition
from instantid_jax.models.vae import sample_latents
from instantid_jax.params import Network, Params
from train.networks import Networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The loss; by default every option is off.

    Attributes:
      prediction_type: "epsilon" or "v_prediction", as the base model's.
      drop_id: share of examples that train with a zero face embedding. The paper drops nothing
        (section 3.3); `CFG` has the shares of IP-Adapter's training.
      drop_text: share of examples that train with the empty prompt.
      drop_both: share of examples that train with both.
      log_noise: mean and standard deviation of a normal distribution of ln(noise / signal), from
        which timesteps are drawn (Karras et al. 2022, table 1). None draws them uniformly.
      min_snr_gamma: caps the weight of timesteps with little noise (Hang et al. 2023, eq. 5).
      noise_offset: strength of an additional noise that is constant within each channel.
      face_weight: extra weight of latents inside the face box. Each image's weights are scaled to
        a mean of 1.
      identity_weight: weight of the identity loss (`train.identity`). Each example's loss is also
        scaled by alphas_cumprod, because pure noise predicts no identity. Needs
        `model.recognizer`.
      identity_window: side in latents of the square around the face that the identity loss
        decodes; None decodes the whole image, which takes much memory at SDXL's sizes. A face
        larger than the window (a recognizer sees 3.2 times the eye distance) has no such loss.
    """

    prediction_type: str = "epsilon"
    drop_id: float = 0.0
    drop_text: float = 0.0
    drop_both: float = 0.0
    log_noise: tuple[float, float] | None = None
    min_snr_gamma: float | None = None
    noise_offset: float = 0.0
    face_weight: float = 0.0
    identity_weight: float = 0.0
    identity_window: int | None = None

    def __post_init__(self):
        drops = (self.drop_id, self.drop_text, self.drop_both)
        if not (min(drops) >= 0 and sum(drops) <= 1):
            raise InputError(
                f"drop_id, drop_text, drop_both = {drops}: expected shares that sum to at most 1"
            )
        for name in ("noise_offset", "face_weight", "identity_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)}: expected 0 or more")
        if self.identity_window is not None and self.identity_window < 1:
            raise InputError(
                f"identity_window={self.identity_window}: expected 1 or more latents, or None"
            )
        if self.log_noise is not None:
            mean, deviation = self.log_noise
            if not (math.isfinite(mean) and 0 < deviation < float("inf")):
                raise InputError(
                    f"log_noise={self.log_noise}: expected (mean, deviation > 0), or None"
                )
        if self.min_snr_gamma is not None and not self.min_snr_gamma > 0:
            raise InputError(
                f"min_snr_gamma={self.min_snr_gamma}: expected a positive number, or None"
            )
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise InputError(
                f"prediction_type={self.prediction_type!r}: expected epsilon or v_prediction"
            )


# Conditioning dropout: none, as in the paper; or IP-Adapter's, for classifier-free guidance.
PAPER = ObjectiveConfig()
CFG = ObjectiveConfig(drop_id=0.05, drop_text=0.05, drop_both=0.05)


class Conditions(NamedTuple):
    """Inputs of the prediction besides the noisy latents.

    Attributes:
      text: [B, L, D]; pooled: [B, P]; time_ids: [B, 6] float32.
      id_embeds: [B, E] float32, zeros where the ID is dropped.
      image: [B, 8H, 8W, 3] in [0, 1], the keypoint image.
    """

    text: jax.Array
    pooled: jax.Array
    time_ids: jax.Array
    id_embeds: jax.Array
    image: jax.Array


class Draws(NamedTuple):
    """The random numbers of a step, a function of (seed, step, example).

    Attributes:
      timesteps: [B] int32 in [0, 1000).
      noise, vae_noise: [B, H, W, C] float32, to diffuse the latents and to sample them.
      drop_id, drop_text: [B] bool.
    """

    timesteps: jax.Array
    noise: jax.Array
    vae_noise: jax.Array
    drop_id: jax.Array
    drop_text: jax.Array


def draw(
    config: ObjectiveConfig,
    key: jax.Array,
    examples: jax.Array,
    latent_shape: tuple[int, int, int],
    alphas_cumprod: jax.Array,
) -> Draws:
    """Draws the random numbers of a step.

    Args:
      key: the step's.
      examples: [B] indices in the global batch; they make the draws independent of sharding.
      latent_shape: (H, W, C).
      alphas_cumprod: [T] float32.
    """

    def timestep(key: jax.Array) -> jax.Array:
        if config.log_noise is None:
            return jax.random.randint(key, (), 0, len(alphas_cumprod))
        mean, deviation = config.log_noise
        return timesteps_of_noise(alphas_cumprod, mean + deviation * jax.random.normal(key))

    def one(example: jax.Array) -> Draws:
        k_t, k_noise, k_offset, k_vae, k_drop = jax.random.split(
            jax.random.fold_in(key, example), 5
        )
        noise = jax.random.normal(k_noise, latent_shape)
        if config.noise_offset:
            noise += config.noise_offset * jax.random.normal(k_offset, (1, 1, latent_shape[-1]))
        # One draw decides, so that the three cases are disjoint.
        u = jax.random.uniform(k_drop)
        both = u < config.drop_both
        with_id = config.drop_both + config.drop_id
        return Draws(
            timesteps=timestep(k_t),
            noise=noise,
            vae_noise=jax.random.normal(k_vae, latent_shape),
            drop_id=u < with_id,
            drop_text=both | ((u >= with_id) & (u < with_id + config.drop_text)),
        )

    return jax.vmap(one)(examples)


def predict(
    networks: Networks,
    frozen: dict[str, Params],
    trainable: Params,
    noisy: jax.Array,
    timesteps: jax.Array,
    conditions: Conditions,
    remat: Remat = keep,
) -> jax.Array:
    """Predicts the noise with all scales at 1, computing in the trainables' dtype.

    Args:
      frozen: parameters of `Networks.frozen`; the UNet's exclude the ID branch.
      trainable: parameters of what is trained, prefixed by part.
      noisy: [B, H, W, C] float32; timesteps: [B].
    Returns:
      [B, H, W, C] float32.
    """
    parts = networks.instantid(frozen, trainable)
    unet = networks.unet.bind(frozen["unet"] | parts["ip_adapter"])
    controlnet = networks.controlnet.bind(parts["controlnet"])
    dtype = controlnet.conv_in.kernel.dtype
    id_tokens = networks.image_proj.bind(parts["image_proj"])(conditions.id_embeds)
    given = condition(
        unet,
        [controlnet],
        Texts(conditions.text.astype(dtype), conditions.pooled),
        conditions.time_ids,
        id_tokens,
        jnp.ones((), dtype),
        [remat(controlnet.embed_image)(conditions.image)],
    )
    output = instantid.predict(
        unet, [controlnet], noisy.astype(dtype), timesteps.astype(jnp.float32), given, remat=remat
    )
    return output.astype(jnp.float32)


def losses(
    config: ObjectiveConfig,
    alphas_cumprod: jax.Array,
    prediction: jax.Array,
    latents: jax.Array,
    noise: jax.Array,
    timesteps: jax.Array,
    face_box: jax.Array | None = None,
) -> jax.Array:
    """The loss of each example, [B] float32.

    Args:
      alphas_cumprod: [T] float32.
      face_box: [B, 4], left, top, right, bottom in latents; required by `face_weight`.
    """
    velocity = config.prediction_type == "v_prediction"
    target = velocity_target(alphas_cumprod, latents, noise, timesteps) if velocity else noise
    error = jnp.square(prediction - target)  # [B, H, W, C]
    if config.face_weight:
        if face_box is None:
            raise InputError("face_weight needs face_box")
        error = weighted_by_face(error, config.face_weight, face_box)
    loss = error.mean(axis=(1, 2, 3))
    if config.min_snr_gamma is not None:
        alpha = alphas_cumprod[timesteps]
        snr = alpha / (1 - alpha)
        # For epsilon, min(snr, γ) / snr in a form that is finite at zero terminal SNR.
        gamma = config.min_snr_gamma
        weight = jnp.minimum(snr, gamma) / (snr + 1) if velocity else jnp.minimum(1.0, gamma / snr)
        loss = loss * weight
    return loss


def weighted_by_face(error: jax.Array, face_weight: float, face_box: jax.Array) -> jax.Array:
    """Errors [B, H, W, C] with extra weight in the face box; weights have a mean of 1."""
    weight = 1 + face_weight * _inside(face_box, error.shape[1:3])[..., None]
    return error * weight / weight.mean(axis=(1, 2, 3), keepdims=True)


def _inside(box: jax.Array, size: tuple[int, int]) -> jax.Array:
    """1 where the center of a latent lies in the box: [B, H, W] float32."""
    y = jnp.arange(size[0], dtype=jnp.float32)[None, :, None] + 0.5
    x = jnp.arange(size[1], dtype=jnp.float32)[None, None, :] + 0.5
    left, top, right, bottom = (box[:, i, None, None] for i in range(4))
    return ((x >= left) & (x <= right) & (y >= top) & (y <= bottom)).astype(jnp.float32)


def image_moments(vae: Network, params: Params, images: jax.Array) -> jax.Array:
    """The VAE's posterior moments, [B, H, W, 2C] float32, of images [B, 8H, 8W, 3] uint8."""
    return vae.bind(params).moments(images.astype(jnp.float32) / 127.5 - 1)


def encode_batch(
    networks: Networks,
    frozen: dict[str, Params],
    batch: dict[str, jax.Array],
    draws: Draws,
    empty_prompt: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, Conditions]:
    """Computes latents and conditions of a batch with the frozen encoders.

    Args:
      batch: arrays of `train.data`, with `images` or `latent_moments`. The latter need no VAE.
      empty_prompt: token ids [L] of "" for each text encoder.
    Returns:
      Scaled latents [B, H, W, C] float32 and the conditions.
    """
    if "latent_moments" in batch:
        moments = batch["latent_moments"]
    else:
        moments = image_moments(networks.vae, frozen["vae"], batch["images"])
    latents = sample_latents(networks.vae.config, moments, draws.vae_noise)
    text, pooled = encode_prompts(
        networks,
        frozen,
        [
            jnp.where(draws.drop_text[:, None], empty[None, :], batch[key])
            for key, empty in zip(("input_ids", "input_ids_2"), empty_prompt, strict=True)
        ],
    )
    return latents, Conditions(
        text=text,
        pooled=pooled,
        time_ids=batch["time_ids"],
        # Zeros enter the Resampler, as they do in guidance.
        id_embeds=jnp.where(draws.drop_id[:, None], 0, batch["id_embeds"]),
        image=batch["keypoint_images"].astype(jnp.float32) / 255,
    )


def encode_prompts(
    networks: Networks, frozen: dict[str, Params], input_ids: Sequence[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Text states [B, L, D] and the pooled [B, P] of each encoder's token ids [B, L]."""
    hidden, pooled = [], None
    for name, ids in zip(("text_encoder", "text_encoder_2"), input_ids, strict=True):
        encoded = getattr(networks, name).bind(frozen[name])(ids)
        hidden.append(encoded.hidden_states)
        pooled = encoded.pooled
    return jnp.concatenate(hidden, axis=-1), pooled
