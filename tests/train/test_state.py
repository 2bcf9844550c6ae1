"""Trainables are initialized correctly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.components import component_shapes
from instantid_jax.params import split_parts
from tests.parity.reference import relative_error
from tests.train import small
from train.objective import ObjectiveConfig, draw, encode_batch, predict
from train.state import init_trainables, trainable_shapes


@pytest.fixture(scope="module")
def fresh():
    """Trainables with copied and with zero ID values."""
    init = functools.partial(init_trainables, small.networks(), small.frozen()["unet"])
    return [
        jax.jit(functools.partial(init, zero_id_values=zero))(jax.random.key(0))
        for zero in (False, True)
    ]


def test_names_shapes_and_dtypes_match_the_trainables(fresh):
    wanted = trainable_shapes(small.networks())
    for params in fresh:
        assert {k: (v.shape, v.dtype) for k, v in params.items()} == {
            k: (v.shape, v.dtype) for k, v in wanted.items()
        }


def test_identitynet_copies_the_encoder_with_zero_outputs(fresh):
    unet, parts = small.frozen()["unet"], split_parts(fresh[0])
    shared = [name for name in parts["controlnet"] if name in unet]
    assert len(shared) > len(parts["controlnet"]) / 2
    for name in shared:
        np.testing.assert_array_equal(parts["controlnet"][name], unet[name])
    for name in set(parts["controlnet"]) - set(shared):
        ends = name.startswith(("controlnet_down", "controlnet_mid"))
        ends |= name.startswith("controlnet_cond_embedding.conv_out")
        if ends or name.endswith(".bias"):
            assert not np.any(parts["controlnet"][name]), name
        else:
            assert np.any(parts["controlnet"][name]), name


def test_id_keys_and_values_copy_the_texts(fresh):
    unet = small.frozen()["unet"]
    names = component_shapes("ip_adapter", small.networks().unet)
    copied, zero = (split_parts(params)["ip_adapter"] for params in fresh)
    assert set(copied) == set(names)
    for name in names:
        text = unet[name.replace("_ip.", ".")]
        np.testing.assert_array_equal(copied[name], text)
        np.testing.assert_array_equal(zero[name], text if ".to_k_ip." in name else 0 * text)


def test_zero_id_values_reproduce_the_base_model(fresh):
    networks, constants, batch = small.networks(), small.constants(), small.batch(2)
    alphas = constants.alphas_cumprod
    draws = draw(ObjectiveConfig(), jax.random.key(1), jnp.arange(2), (8, 8, 4), alphas)
    latents, conditions = encode_batch(
        networks, constants.frozen, batch, draws, constants.empty_prompt
    )

    @jax.jit
    def ours(trainable):
        return predict(networks, constants.frozen, trainable, latents, draws.timesteps, conditions)

    @jax.jit
    def base(unet, adapter):
        net = networks.unet.bind(unet | adapter)
        none = jnp.zeros((2, 16, networks.unet.config.cross_attention_dim))
        return net(
            latents,
            draws.timesteps.astype(jnp.float32),
            net.keys_values(conditions.text, none, jnp.zeros(())),
            net.embed_added(conditions.pooled, conditions.time_ids),
        )

    wanted = base(constants.frozen["unet"], split_parts(fresh[0])["ip_adapter"])
    # Adding zeros changes the order of summation, and so the rounding.
    assert relative_error(ours(fresh[1]), wanted) < 1e-5
    assert relative_error(ours(fresh[0]), wanted) > 1e-3
