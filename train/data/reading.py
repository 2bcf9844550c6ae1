"""Reads a dataset back: records by row, and the index made with them."""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow_datasets as tfds

from instantid_jax.atomic import is_hidden
from instantid_jax.errors import InputError
from train.data.buckets import Size, nearest_buckets
from train.data.record import CorruptRecord, Record
from train.data.writing import INDEX

T = TypeVar("T")
_PARSERS_OWN = "AST constructor recursion depth mismatch"


class FaceDataset:
    """The records of one folder, or of all datasets in its sub-folders, as one sequence.

    Attributes:
      image_size: [n, 2] int32, heights and widths as stored.
      face_share: [n] float32, the share of the picture that the face's box takes.
      embedding_size: numbers in an embedding.
      fingerprint: changes with any record, and with their order.
    """

    def __init__(self, folder: str | Path):
        parts = sorted(
            path.parent
            for path in Path(folder).glob("**/dataset_info.json")
            # A build that was killed leaves a hidden folder.
            if not is_hidden(path, Path(folder))
        )
        if not parts:
            raise InputError(
                f"{folder} has no dataset: expected the output of `python -m train.data.build`"
            )
        names = ("image_size", "face_share", "bucket", "buckets", "fingerprint")
        indices = [read_arrays(part / INDEX, names, "rebuild the dataset") for part in parts]
        builder = tfds.builder_from_directories(parts)
        if "train" not in builder.info.splits:
            raise InputError(f"{folder} has no split named train")
        split = builder.info.splits["train"]
        missing = [path for path in map(Path, split.filepaths) if not path.is_file()]
        if missing:
            raise InputError(f"{missing[0]} is missing: copy or rebuild the dataset")
        self._folder = folder
        self._records = builder.as_data_source(
            split="train", decoders={"image": tfds.decode.SkipDecoding()}
        )
        self._buckets = [(index["bucket"], index["buckets"]) for index in indices]
        self.image_size = np.concatenate([index["image_size"] for index in indices])
        self.face_share = np.concatenate([index["face_share"] for index in indices])
        if len(self.image_size) != len(self._records):
            raise InputError(
                f"{folder} has {len(self._records)} records, but its index has "
                f"{len(self.image_size)}: rebuild the dataset"
            )
        self.embedding_size = int(builder.info.features["embedding"].shape[0])
        hashes = "".join(str(index["fingerprint"]) for index in indices)
        self.fingerprint = hashlib.sha256(hashes.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> Record:
        """Reads one record; several threads may.

        Raises:
          CorruptRecord: if its bytes, or the numbers in them, cannot be used.
          InputError: if the file cannot be read.
        """
        return Record.decode(read_record(lambda: self._records[row], self._folder))

    def bucket(self, buckets: Sequence[Size]) -> np.ndarray:
        """[n] int8, the place of each record's bucket; from the index where it was made so."""
        wanted = np.array(buckets, np.int32)
        if all(np.array_equal(made, wanted) for _, made in self._buckets):
            return np.concatenate([bucket for bucket, _ in self._buckets])
        return nearest_buckets(self.image_size, buckets)


def read_arrays(path: Path, names: Sequence[str], remedy: str) -> dict[str, np.ndarray]:
    """The named arrays of an index.

    Raises:
      InputError: if it cannot be read; `remedy` says what to do.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a valid index ({one_line(error)}): {remedy}") from error


def read_record(read: Callable[[], T], folder: str | Path) -> T:
    """What `read` returns.

    Raises:
      CorruptRecord: if it fails.
      InputError: if the file cannot be read.
    """
    try:
        try:
            return read()
        # Python 3.11's parser, by which NumPy reads headers, fails now and then where several
        # threads use it (python/cpython#106905).
        except SystemError as error:
            if _PARSERS_OWN not in str(error):
                raise
            return read()
    # ArrayRecord, the protocol buffer's parser and TFDS have no exceptions of their own.
    except Exception as error:
        # Trouble with the file system may pass, and a replaced record would then come back.
        passing = isinstance(error, OSError | RuntimeError) and "Corrupted" not in str(error)
        if passing or _PARSERS_OWN in str(error):
            raise InputError(
                f"a record of {folder} cannot be read ({one_line(error)}): try again"
            ) from error
        raise CorruptRecord(f"its bytes cannot be read ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """What an error of another package says, for a message of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__
