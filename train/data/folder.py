"""The folder of datasets, on this machine or in an object store."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from instantid_jax.atomic import replacing_file
from instantid_jax.cache import cache_folder
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json, write_json
from instantid_jax.paths import is_address, utf8_path
from train.remote.checksums import SUMS, sha256, sums_of
from train.remote.shards import RemoteRecords, Shard, cache_bound, open_cache
from train.remote.store import RemoteFile, Store

INFO = "dataset_info.json"
# In the names of shards.
RECORDS = ".array_record"
# Folder of cached latents in a dataset's folder.
LATENTS = "latents"
_VERSIONS = ".versions.json"


@dataclasses.dataclass(frozen=True)
class DataFolder:
    """A folder of datasets.

    Attributes:
      path: the folder; for one in an object store, a copy of its metadata and indices.
      store, files: the object store and what it holds; None for a folder on this machine.
    """

    path: Path
    store: Store | None = None
    files: Mapping[str, RemoteFile] = dataclasses.field(default_factory=dict)

    def has(self, path: Path) -> bool:
        """Whether there is a file, named by its path in `path`."""
        return path.is_file() if self.store is None else self._name(path) in self.files

    def place(self, path: Path) -> str:
        """Path or address of a file."""
        return str(path) if self.store is None else f"{self.store.address}/{self._name(path)}"

    def remote_records(
        self, shards: Sequence[Path], lengths: Sequence[int]
    ) -> RemoteRecords | None:
        """The records of shards, which are read in ranges; None for a folder on this machine.

        Args:
          shards: their paths in `path`.
          lengths: the number of records of each.
        Raises:
          InputError: if a shard is missing.
        """
        if self.store is None:
            return None
        names = list(map(self._name, shards))
        missing = [name for name in names if name not in self.files]
        if missing:
            raise InputError(f"{self.store.address}/{missing[0]} is missing: upload it again")
        return RemoteRecords(
            self.store,
            [Shard(n, *self.files[n], length) for n, length in zip(names, lengths, strict=True)],
            open_cache(cache_folder() / "data" / "shards", cache_bound()),
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()


def open_folder(folder: str | Path) -> DataFolder:
    """Opens a folder of datasets; fetches the metadata that has changed in an object store.

    Raises:
      InputError: if it is in an object store that cannot be reached, or a file is damaged there.
    """
    if not is_address(folder):
        return DataFolder(utf8_path(folder))
    store = Store(str(folder))
    files = store.files()
    cache_bound()
    path = cache_folder() / "data" / "files" / sha256(store.address.encode())[:32]
    _fetch_small(store, files, path)
    return DataFolder(path, store, files)


def _fetch_small(store: Store, files: Mapping[str, RemoteFile], path: Path) -> None:
    """Makes a folder equal to the small files of a store, as far as reading needs them."""
    datasets = {str(PurePosixPath(name).parent) for name in files if _base(name) == INFO}
    wanted = {
        name: list(file)
        for name, file in files.items()
        if RECORDS not in _base(name)
        and (str(PurePosixPath(name).parent) in datasets or LATENTS in PurePosixPath(name).parts)
    }
    note = path / _VERSIONS
    try:
        known = read_json(note)
    except (InputError, OSError):
        known = {}
    for name in known.keys() - wanted.keys():
        (path / name).unlink(missing_ok=True)
    changed = [n for n, file in wanted.items() if known.get(n) != file or not (path / n).exists()]
    if not changed and known.keys() == wanted.keys():
        return
    sums = {
        f"{name.removesuffix(SUMS)}{each}": digest
        for name in files
        if _base(name) == SUMS
        for each, digest in sums_of(store.read(name).decode()).items()
    }
    # A fetch that is killed leaves files that are not noted.
    _write(note, {name: file for name, file in known.items() if name in wanted.keys() - {*changed}})
    for name in changed:
        try:
            store.get(name, path / name, files[name].size)
        except FileNotFoundError as error:
            raise InputError(f"{store.address}/{name} was removed meanwhile: rerun") from error
        if name in sums and sha256((path / name).read_bytes()) != sums[name]:
            (path / name).unlink()
            raise InputError(
                f"{store.address}/{name} differs from its checksum in {SUMS}: upload it again"
            )
    _write(note, wanted)


def _base(name: str) -> str:
    return PurePosixPath(name).name


def _write(path: Path, contents: Mapping[str, object]) -> None:
    with replacing_file(path) as temporary:
        write_json(temporary, contents)
