"""Descriptions of devices to compile for, which need not be present."""

import math
import os
from pathlib import Path

import jax
from jax.experimental import topologies

from instantid_jax.errors import InputError

TARGETS = Path(__file__).parent / "targets"


def absent_devices(topology: str) -> list[jax.Device]:
    """The devices of a TPU topology such as "v5e:16x16", or a GPU of `targets/` such as "h200".

    TPUs need libtpu, GPUs need JAX's CUDA plugin.

    Raises:
      InputError: if the topology is unknown, or its compiler is not installed.
    """
    gpus = sorted(path.stem for path in TARGETS.glob("*.txtpb"))
    extra = "tpu" if ":" in topology else "cuda13"
    if extra == "cuda13" and topology not in gpus:
        raise InputError(
            f"unknown topology {topology!r}: expected a TPU topology such as v5e:16x16, or one of "
            f"{', '.join(gpus)}"
        )
    try:
        return _tpu_devices(topology) if extra == "tpu" else _gpu_devices(topology)
    # From JAX if the compiler refuses or is missing, from `int` if a side is not a number.
    except (RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"cannot compile for topology {topology} ({reason}): check its name and sides, and "
            f"install its compiler with pip install 'jax[{extra}]'"
        ) from error


def _gpu_devices(name: str) -> list[jax.Device]:
    target = (TARGETS / f"{name}.txtpb").read_text(encoding="utf-8")
    described = topologies.get_topology_desc("", "cuda", topology="1x1x1", target_config=target)
    return list(described.devices)


def _tpu_devices(topology: str) -> list[jax.Device]:
    # Keeps libtpu from querying Google Cloud's metadata server, which times out after minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    chips = [int(side) for side in topology.partition(":")[2].split("x")]
    # libtpu assumes hosts of four chips unless given their bounds.
    few = {"chips_per_host_bounds": [*chips, 1][:3]} if math.prod(chips) < 4 else {}
    return list(topologies.get_topology_desc(topology, "tpu", **few).devices)
