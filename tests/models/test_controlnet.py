"""Properties of the ControlNet that hold for any weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.models.controlnet import ControlNetConfig
from tests.models.conftest import ENCODER, normal


@pytest.fixture(scope="module")
def residuals(controlnet, inputs):
    """The residuals of the common inputs, as a function of parameters and image."""
    network, _ = controlnet

    @jax.jit
    def run(params, image):
        model = network.bind(params)
        context = model.keys_values(inputs["id_tokens"])
        added = model.embed_added(inputs["pooled"], inputs["time_ids"])
        embedding = model.embed_image(image)
        return model(inputs["sample"], inputs["timestep"], context, added, embedding)

    return run


@pytest.fixture(scope="module")
def image():
    return jnp.abs(normal(9, 2, 56, 40, 3)) % 1


def test_zero_convolutions_leave_the_unet_unchanged(controlnet, residuals, image, predict, inputs):
    _, params = controlnet
    convolutions = ("controlnet_down_blocks.", "controlnet_mid_block.")
    zeroed = {k: 0 * v if k.startswith(convolutions) else v for k, v in params.items()}
    np.testing.assert_array_equal(
        predict(**inputs, residuals=residuals(zeroed, image)), predict(**inputs)
    )
    filled = predict(**inputs, residuals=residuals(params, image))
    assert jnp.abs(filled - predict(**inputs)).max() > 1e-3


def test_the_image_reaches_every_residual(controlnet, residuals, image):
    network, params = controlnet
    changed = residuals(params, 1 - image)
    assert len(changed) == network.config.residuals
    for before, after in zip(residuals(params, image), changed, strict=True):
        assert jnp.abs(before - after).max() > 1e-4


def test_unet_and_controlnet_share_the_names_of_the_encoder(unet, controlnet):
    """Training starts a ControlNet from the UNet's encoder by name."""
    unet_shapes, shapes = (network.shapes for network, _ in (unet, controlnet))
    own = [name for name in shapes if not name.startswith("controlnet_")]
    assert own and all(unet_shapes[name] == shapes[name] for name in own)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_pool_conditions": True}, "global_pool_conditions=True is not supported"),
        ({"encoder_hid_dim": 8}, "encoder_hid_dim=8 is not supported"),
        ({"controlnet_conditioning_channel_order": "rbg"}, "'rbg' must be 'rgb' or 'bgr'"),
        ({"conditioning_embedding_out_channels": [16, 32]}, "must have 4 entries"),
    ],
)
def test_unsupported_settings_are_refused_by_name(settings, message):
    with pytest.raises(InputError, match=message):
        ControlNetConfig.from_json(ENCODER | settings)
