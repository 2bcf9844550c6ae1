"""The denoising step that `verify` compares: its inputs, its outputs, and our side."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.components import ModelSource
from instantid_jax.diffusion.guidance import classifier_free_guidance
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.face.keypoints import draw_keypoints
from instantid_jax.models.instantid import (
    Texts,
    condition,
    condition_controlnet,
    sum_residuals,
)
from instantid_jax.params import Network, Params

STEPS = 30
GUIDANCE_SCALE = 5.0
TEXT_TOKENS = 77
# Typical norm of raw antelopev2 embeddings.
EMBEDDING_NORM = 20.0
# Eyes, nose and corners of the mouth, as fractions of width and height.
FACE = [[0.40, 0.35], [0.60, 0.34], [0.50, 0.48], [0.42, 0.60], [0.59, 0.61]]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Inputs of both sides. The first of two rows is the negative one.

    Attributes:
      embeddings: [2, E]; the negative person is zeros.
      text: [2, L, D]; pooled: [2, P]; time_ids: [2, 6].
      image: [1, H, W, 3] in 0 to 255, with drawn keypoints.
      noise: [1, H/8, W/8, C] of unit variance.
    """

    embeddings: np.ndarray
    text: np.ndarray
    pooled: np.ndarray
    time_ids: np.ndarray
    image: np.ndarray
    noise: np.ndarray
    ip_adapter_scale: float = 0.8


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Outputs of one side, channels last.

    Attributes:
      id_tokens: [2, N, D], the Resampler's.
      residuals: IdentityNet's, each [2, H, W, C].
      prediction: [2, H/8, W/8, C], the UNet's, before guidance.
      latents: [1, H/8, W/8, C] after the step.
    """

    id_tokens: np.ndarray
    residuals: list[np.ndarray]
    prediction: np.ndarray
    latents: np.ndarray


def draw_inputs(model: ModelSource, height: int, width: int, seed: int) -> Inputs:
    """Random inputs with the sizes of a model."""
    rng = np.random.default_rng(seed)
    unet = model.components["unet"].network.config
    pooled = unet.projection_class_embeddings_input_dim - 6 * unet.addition_time_embed_dim

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    face = normal(1, model.components["image_proj"].network.config.embedding_dim)
    face *= EMBEDDING_NORM / np.linalg.norm(face)
    size = (height, width)
    return Inputs(
        embeddings=np.concatenate([np.zeros_like(face), face]),
        text=normal(2, TEXT_TOKENS, unet.cross_attention_dim),
        pooled=normal(2, pooled),
        time_ids=np.array([[*size, 0, 0, *size]] * 2, np.float32),
        image=draw_keypoints(*size, np.array(FACE) * (width, height))[None],
        noise=normal(1, height // 8, width // 8, unet.in_channels),
    )


@functools.partial(jax.jit, static_argnames="network")
def _id_tokens(network: Network, params: Params, embeddings: jax.Array) -> jax.Array:
    return network.bind(params)(embeddings)


@functools.partial(jax.jit, static_argnames="network")
def _residuals(
    network: Network,
    params: Params,
    sample: jax.Array,
    timestep: jax.Array,
    id_tokens: jax.Array,
    inputs: dict[str, jax.Array],
) -> list[jax.Array]:
    identitynet = network.bind(params)
    image = identitynet.embed_image(jnp.tile(inputs["image"] / 255, (2, 1, 1, 1)))
    conditions = condition_controlnet(
        identitynet, id_tokens, inputs["pooled"], inputs["time_ids"], image
    )
    return sum_residuals([identitynet], sample, timestep, [conditions])


@functools.partial(jax.jit, static_argnames="network")
def _prediction(
    network: Network,
    params: Params,
    sample: jax.Array,
    timestep: jax.Array,
    id_tokens: jax.Array,
    residuals: list[jax.Array],
    inputs: dict[str, jax.Array],
) -> jax.Array:
    unet = network.bind(params)
    texts = Texts(inputs["text"], inputs["pooled"])
    conditions = condition(
        unet, [], texts, inputs["time_ids"], id_tokens, inputs["ip_adapter_scale"], []
    )
    return unet(sample, timestep, conditions.context, conditions.added, residuals)


def jax_step(model: ModelSource, inputs: Inputs) -> Outputs:
    """One guided step in float32; loads one network at a time."""
    parts = model.components

    def load(*names: str) -> Params:
        return {n: p for name in names for n, p in parts[name].load(jnp.float32).items()}

    arrays = {
        name: jnp.asarray(value, jnp.float32)
        for name, value in vars(inputs).items()
        if name not in ("embeddings", "noise")
    }
    tokens = _id_tokens(parts["image_proj"].network, load("image_proj"), inputs.embeddings)
    sampler = make_sampler(ScheduleConfig.from_dict(model.scheduler), "euler", STEPS)
    state = sampler.rule.init(jnp.asarray(inputs.noise) * np.float32(sampler.init_noise_sigma))
    row = sampler.row(0)
    sample = jnp.tile(sampler.rule.scale_input(state, row), (2, 1, 1, 1))
    at = (sample, jnp.full(2, sampler.timesteps[0]))
    residuals = _residuals(parts["controlnet"].network, load("controlnet"), *at, tokens, arrays)
    unet = parts["unet"].network
    output = _prediction(unet, load("unet", "ip_adapter"), *at, tokens, residuals, arrays)
    guided = classifier_free_guidance(output, jnp.float32(GUIDANCE_SCALE))
    following = sampler.rule.step(state, guided, row, None)["sample"]
    return Outputs(
        id_tokens=np.asarray(tokens),
        residuals=[np.asarray(residual) for residual in residuals],
        prediction=np.asarray(output),
        latents=np.asarray(following),
    )
