"""Properties of the text encoders that hold for any weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.models.clip import CLIPTextConfig, CLIPTextModel
from instantid_jax.params import Network
from tests.models.conftest import draw

SIZES = {
    "vocab_size": 30,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 9,
    "eos_token_id": 29,
}


@pytest.fixture(scope="module")
def model():
    network = Network(CLIPTextModel, CLIPTextConfig(**SIZES))
    return network.bind(draw(network, 0))


def test_a_token_changes_nothing_before_it(model):
    ids = jnp.array([[28, 3, 4, 5, 29, 29, 29, 29, 29]])
    before, after = model(ids), model(ids.at[0, 3].set(17))
    np.testing.assert_array_equal(before.hidden_states[:, :3], after.hidden_states[:, :3])
    assert jnp.abs(before.hidden_states[:, 3:] - after.hidden_states[:, 3:]).max() > 1e-3


def test_padding_does_not_change_the_pooled_text(model):
    """The encoder is causal, and the pooled state stands at the first end mark."""
    ids = jnp.array([[28, 3, 4, 29, 29, 29, 29, 29, 29]])
    np.testing.assert_array_equal(model(ids).pooled, model(ids.at[0, 4:].set(0)).pooled)


def test_vectors_stand_for_rows_of_the_token_table(model):
    ids = jnp.array([[28, 3, 4, 5, 29, 29, 29, 29, 29]])
    table = model.text_model.embeddings.token_embedding.embedding[...]
    given = ids.at[0, 2:4].set(-1)
    vectors = jnp.full((1, 9, 12), jnp.nan).at[0, 2].set(table[4]).at[0, 3].set(table[5])
    for ours, wanted in zip(model(given, 0, vectors), model(ids), strict=True):
        np.testing.assert_array_equal(ours, wanted)
    moved = model(given, 0, vectors.at[0, 3].set(table[17]))
    np.testing.assert_array_equal(moved.pooled, model(ids.at[0, 3].set(17)).pooled)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_without_vectors_among_the_ids_no_bit_changes(dtype):
    """One compiled program serves prompts with vectors and without."""
    network = Network(CLIPTextModel, CLIPTextConfig(**SIZES))
    params = {name: value.astype(dtype) for name, value in draw(network, 0).items()}
    ids = jnp.array([[28, 3, 4, 5, 29, 29, 29, 29, 29], [28, 7, 29, 29, 29, 29, 29, 29, 29]])
    without = jax.jit(lambda params: network.bind(params)(ids))(params)
    run = jax.jit(lambda params, vectors: network.bind(params)(ids, 0, vectors))
    for each, wanted in zip(run(params, jnp.zeros((2, 9, 12))), without, strict=True):
        np.testing.assert_array_equal(each, wanted)


@pytest.mark.parametrize("end", [2, 29])
def test_the_end_of_the_text_is_pooled_after_vectors_too(end):
    """Also with the `eos_token_id` of SDXL's files, where the highest id is pooled."""
    network = Network(CLIPTextModel, CLIPTextConfig(**SIZES | {"eos_token_id": end}))
    model = network.bind(draw(network, 0))
    ids = jnp.array([[28, 3, -1, -1, 29, 29, 29, 29, 29]])
    vectors = jnp.sin(jnp.arange(9 * 12.0)).reshape(1, 9, 12)
    pooled = model(ids, 0, vectors).pooled
    np.testing.assert_array_equal(pooled, model(ids.at[0, 5:].set(0), 0, vectors).pooled)
    assert jnp.abs(pooled - model(ids, 0, -vectors).pooled).max() > 1e-3


def test_clip_skip_takes_earlier_layers(model):
    ids = jnp.array([[28, 3, 4, 29, 29, 29, 29, 29, 29]])
    states = [model(ids, clip_skip).hidden_states for clip_skip in range(3)]
    assert all(jnp.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(states))
    np.testing.assert_array_equal(states[2], model.text_model.embeddings(ids))


@pytest.mark.parametrize("clip_skip", [-1, 3])
def test_clip_skip_beyond_the_layers_is_refused(model, clip_skip):
    with pytest.raises(InputError, match=f"clip_skip={clip_skip} must be from 0 to 2"):
        model(jnp.zeros((1, 9), jnp.int32), clip_skip)


@pytest.mark.parametrize("architecture", ["CLIPTextModel", "CLIPTextModelWithProjection"])
def test_architecture_tells_whether_there_is_a_projection(architecture):
    config = CLIPTextConfig.from_json(SIZES | {"architectures": [architecture]})
    assert config.with_projection == architecture.endswith("WithProjection")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu' is not supported"),
        ({"model_type": "t5"}, "model_type='t5' is not supported"),
    ],
)
def test_unsupported_settings_are_refused_by_name(settings, message):
    with pytest.raises(InputError, match=message):
        CLIPTextConfig.from_json(SIZES | settings)
