"""Places a global batch on the mesh, each process supplying its own rows."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from instantid_jax.sharding import batch_sharding

# `process_allgather` needs arrays of one shape, so ids have a fixed length.
ID_BYTES = 128


def process_rows(global_batch_size: int, mesh: Mesh) -> list[int]:
    """Rows of the global batch held by this process's devices, ascending."""
    held = batch_sharding(mesh).addressable_devices_indices_map((global_batch_size,))
    return sorted({row for (rows,) in held.values() for row in range(global_batch_size)[rows]})


def place_batch(
    batch: Mapping[str, np.ndarray], rows: Sequence[int], global_batch_size: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """Puts a batch on the mesh.

    Args:
      batch: arrays of `len(rows)` rows.
      rows: this process's rows, from `process_rows`.
    Returns:
      Arrays of `global_batch_size` rows, sharded over the batch axes.
    """
    sharding = batch_sharding(mesh)
    place = {row: i for i, row in enumerate(rows)}

    def on_devices(value: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            wanted = [place[row] for row in range(global_batch_size)[index[0]]]
            # A device's rows are contiguous: slicing gives a view, fancy indexing would copy.
            return value[wanted[0] : wanted[-1] + 1]

        shape = (global_batch_size, *value.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return {name: on_devices(value) for name, value in batch.items()}


def gather_ids(ids: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Gathers the ids of all rows from all processes, truncated to `ID_BYTES`.

    Args:
      ids: those of this process's `rows`.
    """
    cut = [each.encode()[:ID_BYTES] for each in ids]
    if jax.process_count() == 1:
        return [each.decode(errors="replace") for each in cut]
    letters = np.array(cut, f"S{ID_BYTES}").view(np.uint8).reshape(-1, ID_BYTES)
    everywhere = multihost_utils.process_allgather((np.asarray(rows), letters), tiled=True)
    # Processes that share rows report the same ids for them.
    by_row = dict(zip(*(each.tolist() for each in everywhere), strict=True))
    return [bytes(by_row[row]).rstrip(b"\0").decode(errors="replace") for row in sorted(by_row)]
