"""Peaks match those counted by hand, in units of one array."""

import functools

import jax
import jax.numpy as jnp
import pytest

from benchmarks.live_bytes import peak_bytes

ROWS, WIDTH, LAYERS = 4096, 8, 20
X = jnp.zeros((ROWS, WIDTH))


def peak(function, *args):
    return peak_bytes(jax.make_jaxpr(function)(*args).jaxpr) / X.nbytes


def layer(weights, x):
    return x + jnp.tanh(x @ weights) @ weights


def unrolled(run, weights):
    x = X
    for each in weights:
        x = run(each, x)
    return x.mean()


def looped(run, weights):
    return jax.lax.scan(lambda x, each: (run(each, x), None), X, weights)[0].mean()


def test_arrays_die_after_their_last_use():
    assert peak(lambda x: jnp.cos(jnp.sin(jnp.exp(x))), X) == 2


def test_arrays_live_until_their_last_use():
    def function(x):
        first = jnp.exp(x)
        return first * jnp.cos(jnp.sin(jnp.sin(x)))

    assert peak(function, X) == 3


@pytest.mark.parametrize("run", [unrolled, looped])
def test_remat_keeps_one_array_per_layer(run):
    weights = jnp.zeros((LAYERS, WIDTH, WIDTH))
    # Without remat: the tanh, its derivative and the input of each layer.
    assert peak(jax.grad(functools.partial(run, layer)), weights) > 2 * LAYERS
    within = peak(jax.grad(functools.partial(run, jax.checkpoint(layer))), weights)
    assert LAYERS <= within < LAYERS + 10
