"""Runs before JAX is imported: eight virtual CPU devices, and torch's arithmetic."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Compiled programs go to a folder of this run's, which its processes share, not to the user's.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="instantid_jax-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
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


def pytest_runtest_teardown(item):
    """Drops what a slow test compiled.

    Linux limits a process to 65,530 memory maps. The programs of a slow test take thousands;
    XLA ended in a segmentation fault after 34 such tests, for want of them as it seems.
    """
    if item.get_closest_marker("slow"):
        jax.clear_caches()
