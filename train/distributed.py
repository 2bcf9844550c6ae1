"""Several processes as one run: joining them, and making sure that all of them joined."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from instantid_jax.errors import InputError

# Set by Cloud TPU, Slurm and Open MPI for the processes of one job.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_LISTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """The processes of a run; on TPU pods and under Slurm or Open MPI nothing needs to be given.

    Attributes:
      processes: how many there are; None is what the environment tells, else one.
      process_id: which this one is, from 0.
      coordinator: address of the first, host:port.
    """

    processes: int | None = None
    process_id: int | None = None
    coordinator: str | None = None


def expected_processes(environment: Mapping[str, str]) -> int:
    """How many processes the environment says a job has; 1 where it says nothing."""
    for name in _COUNTS:
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    lists = [environment.get(name, "").split(",") for name in _LISTS]
    return max(1, *(len([name for name in names if name]) for names in lists))


def join(config: ProcessConfig) -> None:
    """Joins the processes of a run, where there are several; before JAX is used.

    Raises:
      InputError: if not all join. Otherwise each might train alone without anybody noticing.
    """
    if config.processes is not None and config.processes < 1:
        raise InputError(f"processes={config.processes}: expected 1 or more")
    expected = config.processes or expected_processes(os.environ)
    if expected == 1:
        if config.coordinator or config.process_id:
            raise InputError(
                "coordinator or process_id given for a single process: set processes too"
            )
        # A TPU knows what it is part of, though nothing in the environment says so.
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
    """Checks that all processes have the same settings; all call it with the same names.

    Raises:
      InputError: naming a process and the first setting in which it differs.
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
