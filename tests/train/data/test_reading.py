"""What the errors of other packages mean when a record is read."""

import pytest

from instantid_jax.errors import InputError
from train.data.reading import read_record
from train.data.record import CorruptRecord


def failing(*errors):
    """A read that fails so, one error a time, and then gives 7."""
    left = list(errors)

    def read():
        if left:
            raise left.pop(0)
        return 7

    return read


def test_pythons_own_failure_replaces_no_record():
    mismatch = SystemError("AST constructor recursion depth mismatch (before=51, after=47)")
    assert read_record(failing(mismatch), "faces") == 7
    with pytest.raises(InputError, match=r"a record of faces cannot be read .*try again"):
        read_record(failing(mismatch, mismatch), "faces")


@pytest.mark.parametrize("error", [OSError("stale file"), RuntimeError("busy")], ids=str)
def test_trouble_with_a_file_is_no_corrupt_record(error):
    with pytest.raises(InputError, match=f"{error}.*try again"):
        read_record(failing(error), "faces")


@pytest.mark.parametrize(
    "error",
    [SystemError("bad call"), ValueError("no header"), RuntimeError("Corrupted\nat 3")],
    ids=str,
)
def test_what_cannot_be_parsed_is_corrupt(error):
    with pytest.raises(CorruptRecord, match="its bytes cannot be read"):
        read_record(failing(error), "faces")
