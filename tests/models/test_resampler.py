"""Properties of the Resampler, and how its sizes are read off an adapter file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.models.resampler import Resampler, ResamplerConfig
from instantid_jax.params import Network
from instantid_jax.weights.names import torch_name
from tests.models.conftest import draw, normal

CONFIG = ResamplerConfig(
    dim=12,
    depth=3,
    dim_head=4,
    inner_dim=8,
    num_queries=5,
    embedding_dim=10,
    output_dim=6,
    ff_inner_dim=36,
)


@pytest.fixture(scope="module")
def resampler():
    network = Network(Resampler, CONFIG)
    params = draw(network, 0)
    return jax.jit(lambda faces: network.bind(params)(faces))


@pytest.fixture(scope="module")
def torch_shapes():
    shapes = {}
    for name, leaf in Network(Resampler, CONFIG).shapes.items():
        torch, axes = torch_name(name, len(leaf.shape))
        shapes[torch] = tuple(leaf.shape[axes.index(i)] for i in range(len(axes)))
    return shapes


def test_sizes_follow_from_the_shapes(torch_shapes):
    assert ResamplerConfig.from_shapes(torch_shapes, dim_head=4) == CONFIG


@pytest.mark.parametrize("name", ["latents", "proj_in.weight", "layers.0.0.to_q.weight"])
def test_a_missing_tensor_that_tells_a_size_is_refused(torch_shapes, name):
    shapes = {key: shape for key, shape in torch_shapes.items() if key != name}
    with pytest.raises(InputError, match=f"{name}.*found none.*not an InstantID adapter"):
        ResamplerConfig.from_shapes(shapes)


def test_an_ip_adapter_of_another_kind_is_refused():
    """IP-Adapter's plain projection has a `proj`, FaceID's an MLP."""
    with pytest.raises(InputError, match="not an InstantID adapter"):
        ResamplerConfig.from_shapes({"proj.weight": (8192, 1280), "norm.weight": (2048,)})


def test_a_head_size_that_does_not_divide_names_the_remedy(torch_shapes):
    with pytest.raises(InputError, match=r"head size 64.*dim_head in a config\.json"):
        ResamplerConfig.from_shapes(torch_shapes)


def test_rows_do_not_see_each_other(resampler):
    faces = normal(1, 2, 10)
    both = resampler(faces)
    assert both.shape == (2, 5, 6)
    np.testing.assert_allclose(both[1:], resampler(faces[1:]), rtol=1e-4, atol=1e-5)
    assert jnp.abs(both[0] - both[1]).max() > 0.1


def test_no_face_is_not_no_token(resampler):
    """Zeros go through the Resampler: its unconditional tokens are not zeros."""
    assert jnp.abs(resampler(jnp.zeros((1, 10)))).max() > 0.1
