"""Records of ArrayRecord files in an object store, by ranges, with a bounded cache on disk."""

import bisect
import functools
import hashlib
import itertools
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from instantid_jax.atomic import replacing_file
from instantid_jax.errors import InputError
from train.remote.array_record import read_offsets
from train.remote.store import Store

# The bound, in GB, of all that is cached on this machine.
VARIABLE = "INSTANTID_JAX_DATA_CACHE_GB"
DEFAULT_GB = 50.0
_SUFFIX = ".part"
# A file system's unit: a range takes up to one more at each end.
_UNIT = 4096
# A reader may find what another process is removing or has not written yet.
_TRIES = 4


class Shard(NamedTuple):
    """An ArrayRecord file of a store: its name there, size, version and number of records."""

    name: str
    size: int
    version: str
    records: int


class RemoteRecords:
    """The records of shards as one sequence of bytes; thread-safe.

    Each shard has a sparse file in the cache, of the shard's size, with the records that were read
    so far in their places. array_record reads it and checks its hashes, by which it also tells a
    record that is not there yet, which is then fetched. The shards that were not read for longest
    are removed when the cache exceeds its bound. Processes may share a cache.
    """

    def __init__(self, store: Store, shards: Sequence[Shard], cache: "Cache"):
        self._store = store
        self._shards = shards
        self._cache = cache
        self._ends = list(itertools.accumulate(shard.records for shard in shards))
        self._offsets: dict[int, np.ndarray] = {}
        self._locks = [threading.Lock() for _ in shards]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, row: int) -> bytes:
        """Reads a record.

        Raises:
          InputError: if the store cannot be reached, or a shard is not what the dataset says.
          RuntimeError: by array_record, if the record is damaged in the store.
        """
        number = bisect.bisect_right(self._ends, row)
        place = row - (self._ends[number - 1] if number else 0)
        for attempt in range(_TRIES):
            path = self._opened(number)
            try:
                return _read(path, place)
            except RuntimeError:
                if attempt == _TRIES - 1:
                    raise
            self._fetch(number, path, place)
        raise AssertionError("the last try returns or raises")

    def _opened(self, number: int) -> Path:
        """The shard's file in the cache, made if there is none."""
        shard = self._shards[number]
        path = self._cache.path(self._place(number), shard.version)
        with self._locks[number]:
            if number not in self._offsets or not path.exists():
                offsets, tail = self._located(number)
                self._offsets[number] = offsets
                if not path.exists():
                    with replacing_file(path) as temporary, temporary.open("wb") as file:
                        file.truncate(shard.size)
                        file.seek(int(offsets[-1]))
                        file.write(tail)
                    self._cache.grown(len(tail))
        self._cache.used(path)
        return path

    def _located(self, number: int) -> tuple[np.ndarray, bytes]:
        """The offsets of a shard's records, and its end."""
        shard = self._shards[number]
        read = functools.partial(self._store.read_range, shard.name)
        try:
            offsets, tail = read_offsets(shard.size, read)
        except (ValueError, FileNotFoundError) as error:
            raise InputError(
                f"{self._place(number)} is damaged ({error}): upload it again"
            ) from error
        if len(offsets) != shard.records + 1:
            raise InputError(
                f"{self._place(number)} has {len(offsets) - 1} records, but the dataset expects "
                f"{shard.records}: upload it again"
            )
        return offsets, tail

    def _fetch(self, number: int, path: Path, place: int) -> None:
        start, end = (int(each) for each in self._offsets[number][place : place + 2])
        try:
            data = self._store.read_range(self._shards[number].name, start, end)
        except FileNotFoundError as error:
            raise InputError(f"{self._place(number)} was removed: upload it again") from error
        try:
            with path.open("r+b") as file:
                file.seek(start)
                file.write(data)
        except FileNotFoundError:
            return  # removed by another process: the next try makes it again
        self._cache.grown(len(data))

    def _place(self, number: int) -> str:
        return f"{self._store.address}/{self._shards[number].name}"


class Cache:
    """A folder of sparse files; the least recently used are removed beyond a bound.

    Attributes:
      bound: bytes on disk.
    """

    def __init__(self, folder: Path, bound: int):
        self._folder = folder
        self.bound = bound
        self._lock = threading.Lock()
        self._used: dict[Path, float] = {}
        # What other processes and earlier ones have left is counted at once.
        self._size = bound

    def path(self, address: str, version: str) -> Path:
        """The file for a version of an address."""
        name = hashlib.sha256(f"{address}\n{version}".encode()).hexdigest()[:32]
        return self._folder / f"{name}{_SUFFIX}"

    def used(self, path: Path) -> None:
        """Notes that a file is in use."""
        self._used[path] = time.time()

    def grown(self, size: int) -> None:
        """Notes that a file has grown, and makes room."""
        with self._lock:
            self._size += size + 2 * _UNIT
            if self._size <= self.bound:
                return
            sizes = {file: _on_disk(file) for file in self._folder.glob(f"*{_SUFFIX}")}
            self._size = sum(sizes.values())
            # The time of the last write stands for the use by other processes.
            for file in sorted(sizes, key=lambda file: self._used.get(file, _written(file))):
                if self._size <= self.bound:
                    return
                file.unlink(missing_ok=True)
                self._size -= sizes[file]


@functools.cache
def open_cache(folder: Path, bound: int) -> Cache:
    """The cache in a folder: one per process, which counts what all datasets take."""
    return Cache(folder, bound)


def cache_bound() -> int:
    """The bound of the cache in bytes.

    Raises:
      InputError: if the environment names no positive number.
    """
    text = os.environ.get(VARIABLE, str(DEFAULT_GB))
    try:
        bound = float(text)
    except ValueError:
        bound = 0.0
    if not 0 < bound < float("inf"):
        raise InputError(f"{VARIABLE}={text}: expected a number of gigabytes above 0")
    return int(bound * 10**9)


def _read(path: Path, place: int) -> bytes:
    # A reader keeps what it has buffered, and this file grows: each read has its own.
    reader = ArrayRecordReader(
        str(path),
        options="readahead_buffer_size:0,max_parallelism:0",
        file_reader_buffer_size=2**15,
    )
    try:
        return reader.read([place])[0]
    finally:
        reader.close()


def _on_disk(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
