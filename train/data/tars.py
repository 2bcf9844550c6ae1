"""Reads img2dataset tars, where an image, its caption and its metadata share a name."""

import dataclasses
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instantid_jax.errors import InputError


class DamagedTarError(InputError):
    """A tar that is truncated or unreadable from some point on.

    Attributes:
      lost: whether the damage is inside an example's image.
    """

    lost: bool = False


@dataclasses.dataclass(frozen=True)
class TarExample:
    """The files that share a name up to the first dot.

    Attributes:
      key: that name.
      members: file contents by lower-case extension.
    """

    key: str
    members: Mapping[str, bytes]

    @property
    def image(self) -> bytes | None:
        """The first image; None if its download failed."""
        return next(iter(self.images), None)

    @property
    def images(self) -> list[bytes]:
        return [data for kind, data in self.members.items() if kind not in ("txt", "json", "npz")]

    @property
    def caption(self) -> str | None:
        return text_of(self.members["txt"]) if "txt" in self.members else None

    @property
    def notes(self) -> Mapping[str, Any]:
        """The metadata written by img2dataset."""
        return object_of(self.members.get("json", b"{}"))


def tar_examples(path: Path) -> Iterator[TarExample]:
    """Yields the examples of a tar in order; an example's files must be adjacent.

    Raises:
      DamagedTarError: after yielding the complete examples before the damage.
      InputError: if the file system fails to read it.
    """
    members: dict[str, bytes] = {}
    key = ""
    try:
        # Escapes names that are not UTF-8; tarfile's default gives lone surrogates.
        with tarfile.open(path, errors="backslashreplace") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                name = Path(member.name)
                stem, _, kind = name.name.partition(".")
                of = (name.parent / stem).as_posix()
                if of != key and members:
                    yield TarExample(key, members)
                    members = {}
                key = of
                members[kind.lower()] = b""
                opened = tar.extractfile(member)
                assert opened is not None  # it is a file
                members[kind.lower()] = opened.read()
            _check_end(tar)
            if members:
                yield TarExample(key, members)
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        damaged = DamagedTarError(f"{path} is a damaged tar ({error}): copy or download it again")
        damaged.lost = TarExample(key, members).image is not None
        raise damaged from error


def _check_end(tar: tarfile.TarFile) -> None:
    """Raises ReadError unless the tar ends with a block of zeros.

    tarfile silently takes a broken or missing header for the end.
    """
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("truncated, or broken header")


def text_of(data: bytes) -> str:
    return data.decode("utf-8", errors="replace").strip()


def object_of(data: bytes) -> Mapping[str, Any]:
    """Parses a JSON object; anything else gives an empty one."""
    try:
        notes = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}
