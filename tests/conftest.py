"""Settings made before JAX is imported: virtual CPU devices, what to compile fast, caches."""

import atexit
import gc
import os
import shutil
import tempfile

from tests import xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = xla_flags.for_tests()
# The user's cache is a temporary folder that the run's processes share.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="instantid_jax-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
# Tests must not access the hub; those that serve one on loopback run in their own process.
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import pytest

from instantid_jax.cache import keep_compiled_programs

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
# From the start, and in one folder: tests set other ones, which a first pipeline would keep.
keep_compiled_programs()
# JAX also collects arrays at every collection; by default there is one per 700 new objects.
gc.set_threshold(100_000, 20, 50)


@pytest.fixture
def strict_promotion():
    """Makes mixing dtypes without a cast an error, for our own float32 functions."""
    with jax.numpy_dtype_promotion("strict"):
        yield


def pytest_runtest_teardown(item):
    """Drops the compiled programs of a slow test.

    Linux limits a process to 65,530 memory maps. The programs of a slow test take thousands; after
    34 such tests XLA ended in a segmentation fault, probably at that limit.
    """
    if item.get_closest_marker("slow"):
        jax.clear_caches()
