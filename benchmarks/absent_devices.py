"""Devices that programs are compiled for and that need not be there."""

import math
import os
from pathlib import Path

import jax
from jax.experimental import topologies

TARGETS = Path(__file__).parent / "targets"


def absent_devices(topology: str) -> list[jax.Device]:
    """The devices of a TPU topology such as "v5e:16x16", or a GPU of `targets/` such as "h200".

    The first takes libtpu, the second JAX's CUDA plugin (`pip install 'jax[cuda13]'`).
    """
    if ":" in topology:
        return _tpu_devices(topology)
    target = (TARGETS / f"{topology}.txtpb").read_text(encoding="utf-8")
    described = topologies.get_topology_desc("", "cuda", topology="1x1x1", target_config=target)
    return list(described.devices)


def _tpu_devices(topology: str) -> list[jax.Device]:
    # Else libtpu asks a metadata server, which only Google's machines have, for minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    chips = [int(side) for side in topology.partition(":")[2].split("x")]
    # libtpu takes hosts of four chips, unless told that there are fewer.
    few = {"chips_per_host_bounds": [*chips, 1][:3]} if math.prod(chips) < 4 else {}
    return list(topologies.get_topology_desc(topology, "tpu", **few).devices)
