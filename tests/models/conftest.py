"""Tiny networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.models.controlnet import ControlNetConfig, ControlNetModel
from instantid_jax.models.unet import UNet2DConditionModel, UNetConfig
from instantid_jax.params import Network, Params

ENCODER = {
    "block_out_channels": (16, 24),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (2, 3),
    "cross_attention_dim": 20,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 10 + 6 * 8,
    "norm_num_groups": 4,
}
UNET = ENCODER | {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}


@pytest.fixture(scope="session")
def unet() -> tuple[Network, Params]:
    network = Network(UNet2DConditionModel, UNetConfig(**UNET))
    return network, draw(network, 0)


@pytest.fixture(scope="session")
def controlnet() -> tuple[Network, Params]:
    network = Network(ControlNetModel, ControlNetConfig(**ENCODER))
    return network, draw(network, 1)


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def draw(network: Network, seed: int) -> Params:
    """Weights of about unit gain, nowhere zero; compiles nothing, unlike `Network.init`."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, leaf in network.shapes.items():
        value = rng.standard_normal(leaf.shape, np.float32)
        if name.endswith("kernel"):
            value /= np.prod(leaf.shape[:-1]) ** 0.5
        elif name.endswith(("scale", "bias")):
            value = 0.1 * value + name.endswith("scale")
        params[name] = jnp.asarray(value, jnp.float32)
    return params


@pytest.fixture(scope="session")
def inputs() -> dict[str, jax.Array]:
    """Two rows of everything that the networks take, at odd latent sizes."""
    return {
        "sample": normal(2, 2, 7, 5, 4),
        "timestep": jnp.array([900.0, 3.0]),
        "text": normal(3, 2, 4, 20),
        "id_tokens": normal(4, 2, 3, 20),
        "scale": jnp.float32(0.8),
        "pooled": normal(5, 2, 10),
        "time_ids": jnp.tile(jnp.array([[64.0, 48, 0, 0, 56, 40]]), (2, 1)),
    }


@pytest.fixture(scope="session")
def predict(unet):
    """The UNet as one function of its inputs; changed parameters compile nothing new."""
    network, own = unet

    @jax.jit
    def run(params, sample, timestep, text, id_tokens, scale, pooled, time_ids, residuals=None):
        model = network.bind(params)
        context = model.keys_values(text, id_tokens, scale)
        return model(sample, timestep, context, model.embed_added(pooled, time_ids), residuals)

    def predict(params=own, **inputs):
        return run(params, **inputs)

    return predict
