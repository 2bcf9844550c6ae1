import jax.numpy as jnp
import numpy as np
import pytest
from diffusers.utils.torch_utils import apply_freeu

from instantid_jax.models.freeu import freeu
from tests.parity.reference import nchw, nhwc, unit_noise


@pytest.mark.parametrize("size", [(4, 4), (6, 5), (2, 3)])
def test_it_is_diffusers(size):
    x, skip = unit_noise(0, 2, *size, 8), unit_noise(1, 2, *size, 6)
    expected = apply_freeu(0, nchw(x), nchw(skip), s1=0.9, b1=1.3, s2=0, b2=0)
    ours = freeu(jnp.asarray(x), jnp.asarray(skip), jnp.full(2, 1.3), jnp.full(2, 0.9))
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, nhwc(other), atol=1e-5)


def test_factors_of_one_leave_every_bit():
    x, skip = unit_noise(0, 2, 4, 4, 8), unit_noise(1, 2, 4, 4, 6)
    ours = freeu(jnp.asarray(x), jnp.asarray(skip), jnp.ones(2), jnp.ones(2))
    for one, other in zip(ours, (x, skip), strict=True):
        np.testing.assert_array_equal(one, other)
