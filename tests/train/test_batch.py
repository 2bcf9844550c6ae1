"""A batch's rows are placed on the right devices of a mesh."""

import jax
import numpy as np
import pytest

from instantid_jax.sharding import batch_sharding, training_mesh
from train.batch import gather_ids, place_batch, process_rows


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)], ids=str)
def test_single_process_places_all_rows(shape):
    mesh = training_mesh(shape)
    rows = process_rows(16, mesh)
    assert rows == list(range(16))
    values = {"a": np.arange(16 * 3).reshape(16, 3), "b": np.arange(16)}
    placed = place_batch(values, rows, 16, mesh)
    for name, value in values.items():
        np.testing.assert_array_equal(placed[name], value)
        assert placed[name].sharding.is_equivalent_to(batch_sharding(mesh), value.ndim)


def test_rows_may_be_noncontiguous():
    """Such are the rows of a process whose devices are not adjacent on the mesh."""
    mesh = training_mesh((2, 1, 1), jax.devices()[:2])
    shuffled = [8, 9, 0, 1, *range(2, 8), *range(10, 16)]
    values = np.arange(16)
    placed = place_batch({"a": values}, sorted(shuffled), 16, mesh)
    np.testing.assert_array_equal(placed["a"], values)


def test_single_process_gathers_its_own_ids():
    assert gather_ids(["a", "b"], [0, 1]) == ["a", "b"]
