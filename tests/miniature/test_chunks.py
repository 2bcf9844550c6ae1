"""Drawing examples into files."""

import numpy as np
import pytest

from instantid_jax.errors import InputError
from miniature.chunks import drawn_in_chunks


def squares(chunk):
    numbers = np.arange(4 * chunk, 4 * chunk + 4)
    return {"number": numbers, "square": (numbers**2).astype(np.float32)}


def changed(chunk):
    return {"number": np.arange(4), "square": np.full(4, -1, np.float32)}


def test_concatenates_chunks_and_draws_each_once(tmp_path):
    drawn = drawn_in_chunks(tmp_path, squares, 8, 4, processes=2)
    np.testing.assert_array_equal(drawn["number"], range(8))
    (tmp_path / "00001.npz").unlink()
    again = drawn_in_chunks(tmp_path, changed, 8, 4, processes=1)
    np.testing.assert_array_equal(again["square"], [0, 1, 4, 9, -1, -1, -1, -1])


def test_rejects_zero_processes(tmp_path):
    with pytest.raises(InputError, match="--processes is 0: expected 1 or more"):
        drawn_in_chunks(tmp_path, squares, 8, 4, processes=0)


@pytest.mark.parametrize("count", [0, 3, 10])
def test_rejects_partial_chunks(tmp_path, count):
    with pytest.raises(InputError, match=f"{count} examples requested: expected a multiple of 4"):
        drawn_in_chunks(tmp_path, squares, count, 4, processes=1)
