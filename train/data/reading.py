"""Reads a dataset: records by row, and its index."""

import hashlib
import zipfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow_datasets as tfds

from instantid_jax.atomic import is_hidden
from instantid_jax.errors import InputError
from train.data.buckets import Size, nearest_buckets
from train.data.folder import INFO, DataFolder, open_folder
from train.data.record import CorruptRecord, Record
from train.data.writing import INDEX

T = TypeVar("T")
_PARSERS_OWN = "AST constructor recursion depth mismatch"


def find_datasets(folder: str | Path) -> list[Path]:
    """The datasets in a folder and its subfolders, sorted; of an object store, their metadata.

    Raises:
      InputError: if there is none.
    """
    return _parts(open_folder(folder), folder)


def _parts(place: DataFolder, folder: str | Path) -> list[Path]:
    found = sorted(
        path.parent
        for path in place.path.glob(f"**/{INFO}")
        # A killed build leaves a hidden folder.
        if not is_hidden(path, place.path)
    )
    if not found:
        raise InputError(
            f"{folder} has no dataset: expected the output of `python -m train.data.build`"
        )
    return found


class FaceDataset:
    """The records of a folder, or of all datasets in its subfolders, as one sequence.

    The folder may be an address, such as s3://bucket/faces.

    Attributes:
      image_size: [n, 2] int32, heights and widths of the stored images.
      face_share: [n] float32, face box area over image area.
      embedding_size: length of an embedding.
      recognizer: SHA-256 of the recognizer that measured the faces; None if it is not known.
      has_references: whether records have embeddings of other photos of the person; True if it is
        not known.
      fingerprint: hash of the records and their order.
    """

    def __init__(self, folder: str | Path):
        place = open_folder(folder)
        parts = _parts(place, folder)
        names = ("image_size", "face_share", "bucket", "buckets", "fingerprint")
        # Earlier versions did not write these.
        optional = ("recognizer", "referenced")
        indices = [
            read_arrays(part / INDEX, names, "rebuild the dataset", optional=optional)
            for part in parts
        ]
        builder = tfds.builder_from_directories(parts)
        if "train" not in builder.info.splits:
            raise InputError(f"{folder} has no split named train")
        split = builder.info.splits["train"]
        shards = [Path(path) for path in split.filepaths]
        missing = [path for path in shards if not place.has(path)]
        if missing:
            raise InputError(f"{place.place(missing[0])} is missing: copy or rebuild the dataset")
        self._folder = folder
        self._records = builder.as_data_source(
            split="train", decoders={"image": tfds.decode.SkipDecoding()}
        )
        remote = place.remote_records(shards, split.shard_lengths)
        if remote is not None:
            # It has opened no file so far.
            self._records.data_source = remote
        self._buckets = [(index["bucket"], index["buckets"]) for index in indices]
        self.image_size = np.concatenate([index["image_size"] for index in indices])
        self.face_share = np.concatenate([index["face_share"] for index in indices])
        if not (self.image_size >= 1).all() or not np.isfinite(self.face_share).all():
            raise InputError(f"{folder} has an index with empty images: rebuild the dataset")
        if len(self.image_size) != len(self._records):
            raise InputError(
                f"{folder} has {len(self._records)} records, but its index has "
                f"{len(self.image_size)}: rebuild the dataset"
            )
        recognizers = {str(index.get("recognizer", "")) for index in indices} - {""}
        if len(recognizers) > 1:
            raise mixed_recognizers(f"the datasets in {folder}", recognizers)
        self.recognizer = next(iter(recognizers), None)
        self.has_references = any(index.get("referenced", 1) > 0 for index in indices)
        self.embedding_size = int(builder.info.features["embedding"].shape[0])
        hashes = "".join(str(index["fingerprint"]) for index in indices)
        self.fingerprint = hashlib.sha256(hashes.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> Record:
        """Reads one record; thread-safe.

        Raises:
          CorruptRecord: if its bytes are damaged, or its values unusable.
          InputError: if the file cannot be read.
        """
        return Record.decode(read_record(lambda: self._records[row], self._folder))

    def bucket(self, buckets: Sequence[Size]) -> np.ndarray:
        """The index of each record's bucket, [n] int8; precomputed for the dataset's buckets."""
        wanted = np.array(buckets, np.int32)
        if all(np.array_equal(made, wanted) for _, made in self._buckets):
            return np.concatenate([bucket for bucket, _ in self._buckets])
        return nearest_buckets(self.image_size, buckets)


def mixed_recognizers(where: str, recognizers: Collection[str]) -> InputError:
    """The error of datasets whose embeddings cannot be compared."""
    hashes = ", ".join(f"{each[:8]}..." for each in sorted(recognizers))
    return InputError(
        f"{where} were measured by {len(recognizers)} recognizers (SHA-256 {hashes}): prepare all "
        "datasets of a mixture with one face pack"
    )


def read_arrays(
    path: Path, names: Sequence[str], remedy: str, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Reads the named arrays of an index, and those of `optional` that it has.

    Raises:
      InputError: if it cannot be read; the message ends with `remedy`.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in (*names, *(n for n in optional if n in file))}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a valid index ({one_line(error)}): {remedy}") from error


def read_record(read: Callable[[], T], folder: str | Path) -> T:
    """Calls `read`, and sorts its errors.

    Raises:
      CorruptRecord: if the record is damaged.
      InputError: if the file cannot be read.
    """
    try:
        try:
            return read()
        # NumPy reads headers with Python's parser, which in 3.11 occasionally fails under threads
        # (python/cpython#106905).
        except SystemError as error:
            if _PARSERS_OWN not in str(error):
                raise
            return read()
    except InputError:
        raise
    # ArrayRecord, protobuf's parser and TFDS raise bare exceptions.
    except Exception as error:
        # File-system errors may be transient, and replacing a record would not be reproducible.
        passing = isinstance(error, OSError | RuntimeError) and "Corrupted" not in str(error)
        if passing or _PARSERS_OWN in str(error):
            raise InputError(
                f"a record of {folder} cannot be read ({one_line(error)}): try again"
            ) from error
        raise CorruptRecord(f"its bytes cannot be read ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """Another package's error message in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
