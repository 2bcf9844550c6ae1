"""Weights are the same numbers in any layout, and no program knows of it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.layout import Format
from jax.sharding import SingleDeviceSharding

from instantid_jax.models.layers import conv3x3
from instantid_jax.pipeline.placement import GPU_CONVOLUTION, place, weight_format

ON_CPU = SingleDeviceSharding(jax.devices()[0])


def test_kernels_of_convolutions_are_turned_on_gpus_alone():
    assert weight_format(4, "gpu", ON_CPU) == Format(GPU_CONVOLUTION, ON_CPU)
    for axes, platform in ((4, "cpu"), (4, "tpu"), (2, "gpu"), (1, "gpu")):
        assert weight_format(axes, platform, ON_CPU) == ON_CPU


def test_a_turned_kernel_gives_the_same_convolution_output_channels_first_in_memory():
    conv = conv3x3(4, 8, rngs=nnx.Rngs(0))
    graph, params = nnx.split(conv)
    x = jax.random.normal(jax.random.key(1), (1, 6, 6, 4))
    expected = conv(x)
    kernel = params["kernel"][...]
    params["kernel"].set_value(jax.device_put(kernel, weight_format(4, "gpu", ON_CPU)))
    assert params["kernel"][...].format.layout.major_to_minor == (3, 0, 1, 2)
    found = jax.jit(lambda params, x: nnx.merge(graph, params)(x))(params, x)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_placing_keeps_the_numbers():
    params = {"conv.kernel": jnp.arange(24.0).reshape(1, 2, 3, 4), "norm.scale": jnp.ones(3)}
    expected = {name: np.array(value) for name, value in params.items()}
    placed = place(params, None)
    assert placed.keys() == expected.keys()
    for name, value in placed.items():
        np.testing.assert_array_equal(value, expected[name])
