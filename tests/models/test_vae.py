"""Properties of the VAE that hold for any weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.models.vae import AutoencoderKL, VAEConfig
from instantid_jax.params import Network, cast
from tests.models.conftest import draw, normal

VAE = {
    "block_out_channels": (8, 12),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 3,
}


def make(**settings):
    network = Network(AutoencoderKL, VAEConfig(**VAE | settings))
    return network, draw(network, 0)


@pytest.fixture(scope="module")
def vae():
    return make()


def test_latents_are_smaller_by_downscale(vae):
    network, params = vae
    model = network.bind(params)
    assert network.config.downscale == 2
    latents = model.encode(normal(1, 1, 6, 10, 3))
    assert latents.shape == (1, 3, 5, 3)
    assert model.decode(latents).shape == (1, 6, 10, 3)


def test_encoding_samples_only_with_noise(vae):
    network, params = vae
    model = network.bind(params)
    image, noise = normal(1, 1, 6, 10, 3), normal(2, 1, 3, 5, 3)
    mean = model.encode(image)
    np.testing.assert_array_equal(mean, model.encode(image, 0 * noise))
    up, down = model.encode(image, noise) - mean, model.encode(image, -noise) - mean
    np.testing.assert_allclose(up, -down, rtol=1e-4, atol=1e-6)
    assert jnp.abs(up).max() > 0.01


def test_scale_and_statistics_apply_to_latents(vae):
    network, params = vae
    statistics = {"latents_mean": (0.1, 0.2, 0.3), "latents_std": (2.0, 3.0, 4.0)}
    other = Network(AutoencoderKL, VAEConfig(**VAE, **statistics, scaling_factor=0.5))
    image = normal(1, 1, 6, 10, 3)
    plain = network.bind(params).encode(image) / network.config.scaling_factor
    mean, std = (jnp.array(v).reshape(1, 1, 1, 3) for v in statistics.values())
    latents = other.bind(params).encode(image)
    np.testing.assert_allclose(latents, (plain - mean) / std * 0.5, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        other.bind(params).decode(latents),
        network.bind(params).decode(plain * network.config.scaling_factor),
        rtol=1e-3,
        atol=1e-4,
    )


def test_latents_stay_float32_with_bfloat16_weights(vae):
    network, params = vae

    def encode_and_decode(image):
        model = network.bind(cast(params, jnp.bfloat16))
        latents = model.encode(image)
        return latents, model.decode(latents)

    latents, decoded = jax.eval_shape(encode_and_decode, normal(1, 1, 6, 10, 3))
    assert latents.dtype == jnp.float32
    assert decoded.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["use_quant_conv", "use_post_quant_conv"])
def test_a_vae_without_quantizing_convolutions_has_no_weights_for_them(name):
    network = Network(AutoencoderKL, VAEConfig(**VAE, **{name: False}))
    prefix = name.removeprefix("use_") + "."
    assert not [key for key in network.shapes if key.startswith(prefix)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mid_block_add_attention": False}, "mid_block_add_attention=False is not supported"),
        ({"act_fn": "relu"}, "act_fn='relu' is not supported"),
        ({"shift_factor": 0.1}, "shift_factor=0.1 is not supported"),
        ({"down_block_types": ["DownEncoderBlock2D"]}, "down_block_types"),
        ({"up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]}, "up_block_types"),
    ],
)
def test_unsupported_settings_are_refused_by_name(settings, message):
    with pytest.raises(InputError, match=message):
        VAEConfig.from_json(VAE | settings)
