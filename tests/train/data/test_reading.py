"""Errors of other packages are classified when a record is read."""

import numpy as np
import pytest

from instantid_jax.errors import InputError
from tests.train.data import drawn
from train.data.reading import FaceDataset, read_record
from train.data.record import CorruptRecord


def failing(*errors):
    """A read that raises each error in turn, then returns 7."""
    left = list(errors)

    def read():
        if left:
            raise left.pop(0)
        return 7

    return read


def test_parser_bug_of_python_replaces_no_record():
    mismatch = SystemError("AST constructor recursion depth mismatch (before=51, after=47)")
    assert read_record(failing(mismatch), "faces") == 7
    with pytest.raises(InputError, match=r"a record of faces cannot be read .*try again"):
        read_record(failing(mismatch, mismatch), "faces")


@pytest.mark.parametrize("error", [OSError("stale file"), RuntimeError("busy")], ids=str)
def test_file_system_errors_are_not_corrupt_records(error):
    with pytest.raises(InputError, match=f"{error}.*try again"):
        read_record(failing(error), "faces")


@pytest.mark.parametrize(
    "error",
    [SystemError("bad call"), ValueError("no header"), RuntimeError("Corrupted\nat 3")],
    ids=str,
)
def test_unparsable_records_are_corrupt(error):
    with pytest.raises(CorruptRecord, match="its bytes cannot be read"):
        read_record(failing(error), "faces")


def test_an_index_with_empty_images_is_refused(tmp_path):
    drawn.dataset(tmp_path / "d", [(64, 64)] * 2)
    (path,) = tmp_path.rglob("index.npz")
    with np.load(path) as index:
        arrays = dict(index)
    for change in ({"image_size": arrays["image_size"] * 0}, {"face_share": np.full(2, np.nan)}):
        np.savez(path, **arrays | change)
        with pytest.raises(InputError, match="has an index with empty images: rebuild"):
            FaceDataset(tmp_path / "d")
