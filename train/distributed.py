"""Multi-process initialization, with checks that all processes joined and agree."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from instantid_jax.errors import InputError

# Set by Slurm and Open MPI, and by Cloud TPU, for the processes of a job.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_LISTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """Processes of a run; detected automatically on TPU pods and under Slurm and Open MPI.

    Attributes:
      processes: number of processes; by default from the environment, else 1.
      process_id: index of this process.
      coordinator: host:port of process 0.
    """

    processes: int | None = None
    process_id: int | None = None
    coordinator: str | None = None


def expected_processes(environment: Mapping[str, str]) -> int:
    """Number of processes according to the environment variables of the job; 1 without any."""
    for name in _COUNTS:
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    lists = [environment.get(name, "").split(",") for name in _LISTS]
    return max(1, *(len([name for name in names if name]) for names in lists))


def join(config: ProcessConfig) -> None:
    """Joins the processes of a multi-process run; call it before using JAX.

    Raises:
      InputError: if not all processes join. They would otherwise train separate models unnoticed.
    """
    if config.processes is not None and config.processes < 1:
        raise InputError(f"processes={config.processes}: expected 1 or more")
    expected = config.processes or expected_processes(os.environ)
    if expected == 1:
        if config.coordinator or config.process_id:
            raise InputError(
                "coordinator or process_id given for a single process: set processes too"
            )
        # The TPU runtime may know of other hosts even if the environment does not.
        if jax.process_count() > 1:
            raise InputError(
                f"this machine is one of {jax.process_count()}, but one process was expected: "
                f"set processes={jax.process_count()}"
            )
        return
    given = config.coordinator is not None
    if given and config.process_id is None:
        raise InputError(f"coordinator={config.coordinator} needs process_id, counted from 0")
    try:
        jax.distributed.initialize(
            config.coordinator, expected if given else None, config.process_id
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"expected {expected} processes, but joining them failed ({reason}): set "
            "coordinator, processes and process_id, or processes=1 for a single-process run"
        ) from error
    if jax.process_count() != expected:
        raise InputError(
            f"expected {expected} processes, but {jax.process_count()} joined: set processes"
        )


def check_same(settings: Mapping[str, str]) -> None:
    """Checks that all processes have equal settings; all must call it with the same names.

    Raises:
      InputError: names a process and the first setting in which it differs from process 0.
    """
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(value.encode()).digest() for value in settings.values()]
    ours = np.frombuffer(b"".join(digests), np.uint8).reshape(len(settings), -1)
    theirs = multihost_utils.process_allgather(ours)  # [processes, settings, bytes]
    process, number = np.nonzero((theirs != theirs[0]).any(axis=-1))
    if len(process):
        raise InputError(
            f"process {process[0]} and process 0 differ in {list(settings)[number[0]]}: start all "
            "processes with the same arguments and a shared workdir"
        )
