"""Examples drawn into files, once."""

import numpy as np
import pytest

from instantid_jax.errors import InputError
from miniature.chunks import drawn_in_chunks


def squares(chunk):
    numbers = np.arange(4 * chunk, 4 * chunk + 4)
    return {"number": numbers, "square": (numbers**2).astype(np.float32)}


def changed(chunk):
    return {"number": np.arange(4), "square": np.full(4, -1, np.float32)}


def test_chunks_follow_each_other_and_are_drawn_once(tmp_path):
    drawn = drawn_in_chunks(tmp_path, squares, 8, 4, processes=2)
    np.testing.assert_array_equal(drawn["number"], range(8))
    (tmp_path / "00001.npz").unlink()
    again = drawn_in_chunks(tmp_path, changed, 8, 4, processes=1)
    np.testing.assert_array_equal(again["square"], [0, 1, 4, 9, -1, -1, -1, -1])


def test_without_a_process_nothing_is_drawn(tmp_path):
    with pytest.raises(InputError, match="--processes is 0: expected 1 up"):
        drawn_in_chunks(tmp_path, squares, 8, 4, processes=0)


@pytest.mark.parametrize("count", [0, 3, 10])
def test_a_part_of_a_chunk_is_refused(tmp_path, count):
    with pytest.raises(InputError, match=f"{count} were asked for: expected a multiple of 4"):
        drawn_in_chunks(tmp_path, squares, count, 4, processes=1)
