"""The attention entry point: its paths agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.models import attention as module
from instantid_jax.models.attention import attention, merge_heads, split_heads
from tests.models.conftest import normal


def random_inputs(queries=10, keys=7):
    return normal(1, 2, queries, 3, 8), normal(2, 2, keys, 3, 8), normal(3, 2, keys, 3, 8)


@pytest.mark.parametrize("logits", [69, 35, 20, 7])
def test_attention_in_blocks_equals_whole(monkeypatch, logits):
    """Block lengths that divide the ten queries, and that do not."""
    query, key, value = random_inputs()
    whole = attention(query, key, value)
    monkeypatch.setattr(module, "MAX_LOGITS", logits)
    in_blocks = attention(query, key, value)
    np.testing.assert_allclose(in_blocks, whole, rtol=1e-5, atol=1e-6)
    assert in_blocks.shape == whole.shape


def test_causal_attention_sees_no_later_position():
    query, key, value = random_inputs(7, 7)
    before = attention(query, key, value, causal=True)
    after = attention(query, key.at[:, 4:].set(9.0), value.at[:, 4:].set(9.0), causal=True)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert jnp.abs(before[:, 4:] - after[:, 4:]).max() > 0.1


def test_softmax_of_bfloat16_is_taken_in_float32():
    """Were the logits rounded to 8 bits, the result would be off by about one per cent."""
    query, key, value = (x.astype(jnp.bfloat16) for x in random_inputs(64, 64))
    exact = attention(*(8 * x.astype(jnp.float32) for x in (query, key)), value.astype(jnp.float32))
    ours = attention(8 * query, 8 * key, value)
    assert ours.dtype == jnp.bfloat16
    error = jnp.linalg.norm(ours.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    assert error < 5e-3


@pytest.mark.parametrize(
    ("backend", "dtype", "head_dim", "expected"),
    [
        ("gpu", jnp.bfloat16, 64, "cudnn"),
        ("gpu", jnp.float16, 128, "cudnn"),
        ("gpu", jnp.float32, 64, "xla"),
        # cuDNN takes multiples of 8 up to 128; the VAE's one head is 512 wide.
        ("gpu", jnp.bfloat16, 12, "xla"),
        ("gpu", jnp.bfloat16, 512, "xla"),
        ("cpu", jnp.bfloat16, 64, "xla"),
    ],
)
def test_cudnn_is_asked_for_by_name_where_it_can_be(
    monkeypatch, backend, dtype, head_dim, expected
):
    asked = []
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda query, key, value, *, is_causal=False, implementation: (
            asked.append(implementation) or query
        ),
    )
    x = jnp.zeros((1, 6, 2, head_dim), dtype)
    attention(x, x, x)
    assert asked == [expected]


def test_heads_are_split_and_merged_without_loss():
    x = normal(1, 2, 5, 24)
    heads = split_heads(x, 3)
    assert heads.shape == (2, 5, 3, 8)
    np.testing.assert_array_equal(heads[0, 0, 1], x[0, 0, 8:16])
    np.testing.assert_array_equal(merge_heads(heads), x)


def test_gradient_flows_through_the_blocks(monkeypatch):
    query, key, value = random_inputs()

    def loss(query):
        return (attention(query, key, value) ** 2).sum()

    whole = jax.grad(loss)(query)
    monkeypatch.setattr(module, "MAX_LOGITS", 20)
    np.testing.assert_allclose(jax.grad(loss)(query), whole, rtol=1e-4, atol=1e-6)
