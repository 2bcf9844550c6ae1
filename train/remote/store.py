"""A folder in an object store, such as s3://bucket/faces: whole files, ranges, and retries."""

import functools
import hashlib
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import fsspec
from fsspec.core import url_to_fs

from instantid_jax.atomic import replacing_file
from instantid_jax.errors import InputError

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Pauses in seconds between tries; together a minute, in which a server restarts.
PAUSES = (0.5, 1, 2, 4, 8, 16, 30)
# Errors that another try does not mend; the last two are botocore's and google-auth's.
_LASTING = (
    "FileNotFoundError",
    "IsADirectoryError",
    "NotADirectoryError",
    "PermissionError",
    "NoCredentialsError",
    "DefaultCredentialsError",
)
# What distinguishes two objects of one name and size, by store.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "content_settings", "mtime", "created")
# s3fs retries by itself; with botocore's retries on top, a lost server would take minutes.
_OPTIONS: dict[str, dict[str, Any]] = {"s3": {"config_kwargs": {"retries": {"max_attempts": 0}}}}


class RemoteFile(NamedTuple):
    """A file's size in bytes, and a text that differs if the file was replaced."""

    size: int
    version: str


class Store:
    """A folder of an object store. Files are named relative to it, with slashes.

    Thread-safe. Methods retry what may be passing, such as lost connections and busy servers, and
    raise InputError if it lasts.
    """

    def __init__(self, address: str):
        """Raises InputError if no installed package opens such addresses."""
        self.address = address.rstrip("/")
        scheme = address.partition("://")[0]
        known = fsspec.available_protocols()
        if scheme not in known:
            raise InputError(f"{address}: no such kind of address; expected s3://, gs:// or a path")
        try:
            self._fs, self._root = url_to_fs(
                self.address, use_listings_cache=False, **_OPTIONS.get(scheme, {})
            )
        except ImportError as error:
            how = "pip install -e '.[remote]'" if scheme in ("s3", "gs") else str(error)
            raise InputError(f"{address} needs a package that is missing: {how}") from error
        except ValueError as error:
            raise InputError(f"{address} is not an address ({error})") from error

    def files(self, folder: str = "") -> dict[str, RemoteFile]:
        """All files in a folder and its subfolders; none if the folder does not exist."""
        top = self._path(folder)
        try:
            found = self._retrying(folder, lambda: self._fs.find(top, detail=True))
        except FileNotFoundError:
            return {}
        start = len(self._root) + 1
        return {path[start:]: _remote_file(info) for path, info in found.items()}

    def read(self, name: str) -> bytes:
        """A whole small file; raises FileNotFoundError if there is none."""
        return self._retrying(name, lambda: self._fs.cat_file(self._path(name)))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes start to end of a file."""

        def read() -> bytes:
            data = self._fs.cat_file(self._path(name), start=start, end=end)
            if len(data) != end - start:
                raise OSError(f"{len(data)} of {end - start} bytes came")
            return data

        return self._retrying(name, read)

    def get(self, name: str, path: Path, size: int) -> None:
        """Copies a file of `size` bytes to this machine; it appears there whole or not at all."""

        def get() -> None:
            with replacing_file(path) as temporary:
                self._fs.get_file(self._path(name), str(temporary))
                found = temporary.stat().st_size
                if found != size:
                    raise OSError(f"{found} of {size} bytes came")

        self._retrying(name, get)

    def put(self, path: Path, name: str) -> None:
        """Copies a file from this machine, and checks its size there."""
        size = path.stat().st_size

        def put() -> None:
            self._fs.put_file(str(path), self._path(name))
            found = self._fs.size(self._path(name))
            if found != size:
                raise OSError(f"{found} of {size} bytes arrived")

        self._writing(name, put)

    def put_verified(
        self, path: Path, name: str, digest: str, there: RemoteFile | None = None
    ) -> None:
        """Copies a file from this machine and reads it back, unless the store has it.

        Args:
          digest: the file's SHA-256.
          there: what the store has under this name.
        Raises:
          InputError: if the copy differs.
        """
        size = path.stat().st_size
        if there is not None and there.size == size and self.sha256(name) == digest:
            return
        self.put(path, name)
        if self.sha256(name) != digest:
            raise InputError(f"{self.address}/{name} differs from {path} after the copy: rerun")

    def write(self, name: str, data: bytes) -> None:
        """Writes a small file."""
        self._writing(name, lambda: self._fs.pipe_file(self._path(name), data))

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file, in hex, by reading it."""

        def digest() -> str:
            found = hashlib.sha256()
            with self._fs.open(self._path(name), "rb", block_size=2**24) as file:
                while part := file.read(2**24):
                    found.update(part)
            return found.hexdigest()

        return self._retrying(name, digest)

    def remove(self, names: Collection[str]) -> None:
        """Removes files; those that do not exist are fine."""
        for name in names:
            try:
                self._retrying(name, functools.partial(self._fs.rm_file, self._path(name)))
            except FileNotFoundError:
                continue

    def _writing(self, name: str, action: Callable[[], None]) -> None:
        try:
            self._retrying(name, action)
        except FileNotFoundError as error:
            raise InputError(
                f"{self.address}/{name}: the bucket does not exist: make it"
            ) from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _retrying(self, name: str, action: Callable[[], T]) -> T:
        place = f"{self.address}/{name}" if name else self.address
        for pause in (*PAUSES, None):
            try:
                return action()
            except FileNotFoundError:
                raise
            except InputError:
                raise
            # Stores raise their clients' own exceptions.
            except Exception as error:
                reason = " ".join(str(error).split())[:160] or type(error).__name__
                if type(error).__name__ in _LASTING:
                    raise InputError(f"{place}: {reason}") from error
                if pause is None:
                    raise InputError(
                        f"{place} cannot be reached in {len(PAUSES) + 1} tries ({reason}): "
                        "rerun the same command later"
                    ) from error
                logger.info("%s: %s; trying again", place, reason)
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")


def _remote_file(info: dict[str, Any]) -> RemoteFile:
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    return RemoteFile(int(info["size"]), version)
