"""Runs before JAX is imported: eight virtual CPU devices, and torch's arithmetic."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# No test may reach for a hub; those that serve one on loopback run in a process of their own.
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def strict_promotion():
    """For our own float32 functions: mixing dtypes without a cast is an error."""
    with jax.numpy_dtype_promotion("strict"):
        yield
