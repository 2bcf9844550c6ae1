"""Settings made before JAX is imported: virtual CPU devices, what to compile fast, caches."""

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Without them a program compiles in two thirds of the time, and runs longer.
UNFUSED = " --xla_cpu_use_fusion_emitters=false"
if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") and "PYTEST_XDIST_WORKER" not in os.environ:
    flags = os.environ["XLA_FLAGS"] + UNFUSED
    # XLA ends a process whose flags it does not know, as another version may not know this one.
    known = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
    )
    if known.returncode == 0:
        os.environ["XLA_FLAGS"] = flags
# Compiled programs go to a temporary folder that the run's processes share, not to the user's.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="instantid_jax-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
# Tests must not access the hub; those that serve one on loopback run in their own process.
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
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
