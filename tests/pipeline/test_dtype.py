"""The dtypes that a pipeline computes in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from instantid_jax import InstantIDPipeline
from instantid_jax.errors import InputError
from instantid_jax.pipeline.model import compute_dtype


@pytest.mark.parametrize(
    "given", ["bfloat16", jnp.bfloat16, jnp.dtype("bfloat16"), torch.bfloat16], ids=repr
)
def test_dtypes_of_all_libraries_are_accepted(given):
    assert compute_dtype("dtype", given, jnp.dtype("float32")) == jnp.bfloat16


def test_none_is_the_default():
    assert compute_dtype("dtype", None, jnp.dtype("float32")) == jnp.float32


@pytest.mark.parametrize("given", ["half", np.int8, torch.float64, 3], ids=str)
def test_other_dtypes_are_refused(given):
    with pytest.raises(InputError, match="expected one of float32, bfloat16, float16, or None"):
        compute_dtype("vae_dtype", given, jnp.dtype("float32"))


@pytest.mark.parametrize("name", ["dtype", "vae_dtype"])
def test_float16_is_refused_on_a_cpu(folder, name):
    with pytest.raises(InputError, match=f"{name}=float16 is not supported on a CPU: use float32"):
        InstantIDPipeline.load(sdxl=folder, instantid=folder, **{name: "float16"})


def test_float16_is_accepted_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compute_dtype("dtype", torch.float16, jnp.dtype("bfloat16")) == jnp.float16
