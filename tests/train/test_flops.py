"""FLOP counts match those by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train.flops
from instantid_jax.models.splash import splash_attention
from instantid_jax.sharding import training_mesh
from tests.train import small, tiny_config
from train.flops import StepFlops, count_flops, step_flops, uncounted_flops

MATRIX = jax.ShapeDtypeStruct((8, 16), jnp.float32)


def flops(function, *args):
    return count_flops(jax.make_jaxpr(function)(*args).jaxpr)


def test_matrix_product():
    assert flops(lambda a, b: a @ b.T, MATRIX, MATRIX) == 2 * 8 * 16 * 8


def test_convolution():
    image = jax.ShapeDtypeStruct((2, 10, 10, 4), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32)

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert flops(convolve, image, kernel) == 2 * (2 * 10 * 10 * 6) * (3 * 3 * 4)


def test_loops_count_every_iteration_and_nested_operations():
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)

    @jax.jit
    def inner(x, _):
        return jax.checkpoint(lambda x: x @ x)(x), None

    def outer(x):
        return jax.lax.scan(inner, x, None, length=5)[0]

    assert flops(outer, square) == 5 * 2 * 4**3


def test_gradient_takes_twice_the_forward_pass():
    def loss(a, b):
        return (a @ b.T).sum()

    assert flops(jax.grad(loss, (0, 1)), MATRIX, MATRIX) == 3 * flops(loss, MATRIX, MATRIX)


def test_pallas_kernels_count_without_recomputation():
    """Two products forward and four backward, although the kernels recompute three."""
    x = jax.ShapeDtypeStruct((2, 1100, 3, 64), jnp.bfloat16)
    padded = 1152  # to the next multiple of 128

    def loss(*inputs):
        return splash_attention(*inputs).astype(jnp.float32).sum()

    product = 2 * 2 * 3 * padded**2 * 64
    assert flops(loss, x, x, x) == 2 * product
    assert abs(flops(jax.grad(loss, (0, 1, 2)), x, x, x) / (6 * product) - 1) < 1e-3
    assert uncounted_flops(jax.make_jaxpr(loss)(x, x, x).jaxpr) == 2 * product
    assert uncounted_flops(jax.make_jaxpr(lambda a: a @ a.T)(MATRIX).jaxpr) == 0


def test_xla_counts_a_loop_once():
    def loop(x, matrices):
        return jax.lax.scan(lambda x, matrix: (x @ matrix, None), x, matrices)[0]

    arguments = (jnp.ones((8, 16)), jnp.ones((10, 16, 16)))
    compiled = jax.jit(loop).lower(*arguments).compile()
    uncounted = uncounted_flops(jax.make_jaxpr(loop)(*arguments).jaxpr)
    product = 2 * 8 * 16 * 16
    assert uncounted == 9 * product
    # XLA also counts the loop counter's operations.
    assert 0 <= compiled.cost_analysis()["flops"] + uncounted - 10 * product < 100


@pytest.mark.slow
def test_step_grows_with_the_batch_and_not_with_the_mesh():
    mesh = training_mesh((8, 1, 1))
    config = tiny_config.get_config()
    twice = dataclasses.replace(config, global_batch_size=8)
    one = step_flops(config, small.networks(), mesh, (64, 64))
    assert 1.95 < step_flops(twice, small.networks(), mesh, (64, 64)) / one < 2.0001
    split = training_mesh((2, 2, 2))
    assert step_flops(config, small.networks(), split, (64, 64)) == one


def test_utilization_is_none_without_a_known_peak(monkeypatch):
    mesh = training_mesh((8, 1, 1))
    config = tiny_config.get_config()
    assert StepFlops(config, small.networks(), mesh).utilization((64, 64), 1.0) is None
    monkeypatch.setitem(train.flops.PEAK, mesh.devices.flat[0].device_kind, 1e9)
    known = StepFlops(config, small.networks(), mesh)
    total = step_flops(config, small.networks(), mesh, (64, 64))
    np.testing.assert_allclose(known.utilization((64, 64), 2.0), total / 2 / 8e9)
    np.testing.assert_allclose(known.utilization((64, 128), 2.0), total / 8e9)
