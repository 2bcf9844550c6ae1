"""Properties of the UNet that hold for any weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.models.unet import UNetConfig
from instantid_jax.params import cast
from tests.models.conftest import UNET, normal


def rows(inputs, index):
    return {name: x if x.ndim == 0 else x[index] for name, x in inputs.items()}


def residual_shapes():
    return [(7, 5, 16)] * 2 + [(4, 3, 16), (4, 3, 24), (4, 3, 24)]


def test_id_tokens_matter_unless_their_scale_is_zero(predict, inputs):
    other = {"id_tokens": normal(40, 2, 3, 20)}
    zero = {"scale": jnp.float32(0)}
    np.testing.assert_array_equal(
        predict(**inputs | zero), predict(**inputs | zero | other), strict=True
    )
    assert jnp.abs(predict(**inputs) - predict(**inputs | other)).max() > 1e-3


def test_zero_scale_equals_an_id_branch_without_values(unet, predict, inputs):
    _, params = unet
    without = {k: 0 * v if k.endswith("to_v_ip.kernel") else v for k, v in params.items()}
    np.testing.assert_array_equal(
        predict(**inputs | {"scale": jnp.float32(0)}), predict(without, **inputs)
    )


def test_id_tokens_have_a_softmax_of_their_own(predict, inputs):
    """Repeating them changes nothing; in one softmax with the text, they would weigh more."""
    twice = {"id_tokens": jnp.concatenate([inputs["id_tokens"]] * 2, axis=1)}
    np.testing.assert_allclose(predict(**inputs), predict(**inputs | twice), rtol=1e-4, atol=1e-5)


def test_zero_residuals_equal_none(predict, inputs):
    zeros = [jnp.zeros((2, *shape)) for shape in residual_shapes()]
    np.testing.assert_array_equal(predict(**inputs), predict(**inputs, residuals=zeros))


@pytest.mark.parametrize("index", range(5))
def test_each_residual_matters(predict, inputs, index):
    residuals = [jnp.zeros((2, *shape)) for shape in residual_shapes()]
    residuals[index] += 1
    assert jnp.abs(predict(**inputs, residuals=residuals) - predict(**inputs)).max() > 1e-3


def test_a_missing_residual_is_refused(predict, inputs):
    residuals = [jnp.zeros((2, *shape)) for shape in residual_shapes()]
    with pytest.raises(ValueError, match="shorter"):
        predict(**inputs, residuals=residuals[:3] + residuals[4:])


def test_rows_do_not_see_each_other(predict, inputs):
    both = predict(**inputs)
    for index in ([0], [1]):
        alone = predict(**rows(inputs, jnp.array(index)))
        np.testing.assert_allclose(both[jnp.array(index)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (5, 8), (3, 7), (2, 1)])
def test_output_has_the_size_of_the_sample(unet, inputs, size):
    network, params = unet

    def run(inputs):
        model = network.bind(params)
        context = model.keys_values(inputs["text"], inputs["id_tokens"], inputs["scale"])
        added = model.embed_added(inputs["pooled"], inputs["time_ids"])
        return model(inputs["sample"], inputs["timestep"], context, added)

    sample = jax.ShapeDtypeStruct((2, *size, 4), jnp.float32)
    assert jax.eval_shape(run, inputs | {"sample": sample}).shape == (2, *size, 4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_compute_follows_the_dtype_of_the_weights(unet, inputs, dtype):
    network, params = unet

    def run(params, inputs):
        model = network.bind(params)
        text, id_tokens, sample = (
            inputs[name].astype(dtype) for name in ("text", "id_tokens", "sample")
        )
        context = model.keys_values(text, id_tokens, inputs["scale"])
        added = model.embed_added(inputs["pooled"], inputs["time_ids"])
        return context, added, model(sample, inputs["timestep"], context, added)

    shapes = jax.eval_shape(lambda p, i: run(cast(p, dtype), i), params, inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(dtype)}


def test_float32_mixes_no_dtypes(unet, inputs, strict_promotion):
    network, params = unet

    def run(params, inputs):
        model = network.bind(params)
        context = model.keys_values(inputs["text"], inputs["id_tokens"], inputs["scale"])
        added = model.embed_added(inputs["pooled"], inputs["time_ids"])
        return model(inputs["sample"], inputs["timestep"], context, added)

    assert jax.eval_shape(run, params, inputs).dtype == jnp.float32


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep' is not supported"),
        ({"addition_embed_type": "text"}, "addition_embed_type='text' is not supported"),
        ({"use_linear_projection": False}, "use_linear_projection=False is not supported"),
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim=256 is not supported"),
        ({"mid_block_type": None}, "mid_block_type=None is not supported"),
        ({"act_fn": "gelu"}, "act_fn='gelu' is not supported, expected 'silu'"),
        ({"num_attention_heads": [5, 10]}, "num_attention_heads"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "up_block_types .*AttnUpBlock2D"),
        ({"down_block_types": ["DownBlock2D"]}, "down_block_types .*each of the 2 blocks"),
        ({"layers_per_block": [1, 2, 3]}, "layers_per_block=.*each of 2 blocks"),
        ({"transformer_layers_per_block": [1, [2, 2]]}, "transformer_layers_per_block="),
        ({"cross_attention_dim": [20, 20]}, "cross_attention_dim=.*one integer"),
    ],
)
def test_unsupported_settings_are_refused_by_name(settings, message):
    with pytest.raises(InputError, match=message):
        UNetConfig.from_json(UNET | settings)


def test_lists_of_json_make_the_same_configuration():
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in UNET.items()}
    assert UNetConfig.from_json(lists | {"_class_name": "x", "unknown": 1}) == UNetConfig(**UNET)
    assert hash(UNetConfig.from_json(lists)) == hash(UNetConfig(**UNET))
