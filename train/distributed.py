"""Several processes as one run: joining them, and making sure that all of them joined."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from instantid_jax.errors import InputError

# Set by Cloud TPU, Slurm and Open MPI for the processes of one job.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_NAMES = "TPU_WORKER_HOSTNAMES"


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
    return len([name for name in environment.get(_NAMES, "").split(",") if name]) or 1


def join(config: ProcessConfig) -> None:
    """Joins the processes of a run, where there are several; before JAX is used.

    Raises:
      InputError: if not all join. Otherwise each might train alone without anybody noticing.
    """
    expected = config.processes or expected_processes(os.environ)
    if expected == 1:
        if config.coordinator or config.process_id:
            raise InputError("a coordinator or process id came for one process: give processes")
        return
    given = config.coordinator is not None
    if given and config.process_id is None:
        raise InputError(f"coordinator={config.coordinator} needs process_id, from 0")
    try:
        jax.distributed.initialize(
            config.coordinator, expected if given else None, config.process_id
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{expected} processes are expected, and joining them failed ({reason}): give "
            "coordinator, processes and process_id, or processes=1 to train alone"
        ) from error
    if jax.process_count() != expected:
        raise InputError(
            f"{expected} processes are expected, {jax.process_count()} joined: give processes"
        )


def check_same(settings: Mapping[str, str]) -> None:
    """Checks that all processes have the same settings.

    Raises:
      InputError: naming a process that has others.
    """
    if jax.process_count() == 1:
        return
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()
    all_of_them = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    others = np.flatnonzero((all_of_them != all_of_them[0]).any(axis=1))
    if len(others):
        raise InputError(
            f"process {others[0]} has another configuration than process 0: start all alike"
        )
