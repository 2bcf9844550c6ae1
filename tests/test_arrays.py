"""Arrays as callers have them."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from instantid_jax import Face
from instantid_jax.arrays import float_array
from instantid_jax.errors import InputError
from instantid_jax.request import Request
from instantid_jax.request.split import split

KPS = [[20.0, 30], [44, 28], [33, 40], [24, 50], [43, 49]]


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2], [3, 4]],
        np.array([[1, 2], [3, 4]], np.float64),
        jnp.array([[1, 2], [3, 4]], jnp.bfloat16),
        torch.tensor([[1, 2], [3, 4]]),
        torch.tensor([[1.0, 2], [3, 4]], requires_grad=True),
        torch.tensor([[1, 2], [3, 4]], dtype=torch.bfloat16),
        torch.tensor([[1, 2], [3, 4]], dtype=torch.float16),
    ],
)
def test_takes_arrays_of_every_library(value):
    array = float_array("x", value)
    assert array.dtype == np.float32 and array.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "value", ["me.jpg", [[1], [2, 3]], {"a": 1}, object(), 10**400, [1, -(10**400)]]
)
def test_refuses_what_is_no_array(value):
    with pytest.raises(InputError, match="x is not an array of numbers") as error:
        float_array("x", value)
    assert "\n" not in str(error.value)


def test_requests_and_faces_take_torchs_tensors():
    embedding = torch.ones(512, dtype=torch.bfloat16, requires_grad=True)
    face = Face(embedding=embedding, kps=torch.tensor(KPS))
    assert face.embedding.tolist() == [1] * 512
    request = Request("x", image_embeds=embedding[None, None], kps=torch.tensor(KPS))
    assert request.image_embeds.shape == (512,)
    latents = torch.zeros(2, 8, 8, 4, dtype=torch.bfloat16)
    both = split({"prompt": ["x", "y"], "image_embeds": torch.ones(2, 512), "latents": latents})
    assert [each.latents.shape for each in both] == [(1, 8, 8, 4)] * 2


def test_words_in_place_of_an_array_get_one_line():
    with pytest.raises(InputError, match="image_embeds is not an array of numbers"):
        Request("x", image_embeds="me.npz")
    with pytest.raises(InputError, match="kps is not an array of numbers"):
        split({"prompt": "x", "kps": [[[1, "a"]]]})
