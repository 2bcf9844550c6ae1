"""XLA's flags for tests, to set before JAX starts."""

import os
import subprocess
import sys

DEVICES = "--xla_force_host_platform_device_count=8"
# Without fusion emitters a program compiles in two thirds of the time, and runs longer. In one
# piece it takes a tenth less of the cores, which the tests' processes share.
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def for_tests() -> str:
    """Eight virtual devices, and where tests compile without optimizations, less to compile."""
    given = os.environ.get("XLA_FLAGS", "")
    if "PYTEST_XDIST_WORKER" in os.environ:
        return given  # The first process's.
    flags = f"{given} {DEVICES}"
    if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") and _are_known(f"{flags} {QUICK}"):
        return f"{flags} {QUICK}"
    return flags


def for_one_device() -> str:
    """The flags of this process, for another one."""
    return " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if flag != DEVICES)


def _are_known(flags: str) -> bool:
    """XLA ends a process for a flag that its version does not have."""
    started = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
    )
    return started.returncode == 0
