"""img2dataset's tars: a picture, its caption and its notes under one name, one after the other."""

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
    """A tar that ends, or cannot be read, in the middle.

    Attributes:
      lost: whether an example was begun, which is lost.
    """

    lost: bool = False


@dataclasses.dataclass(frozen=True)
class TarExample:
    """Files that share a name up to its first dot.

    Attributes:
      key: that name.
      members: contents by ending, in lower case.
    """

    key: str
    members: Mapping[str, bytes]

    @property
    def picture(self) -> bytes | None:
        """The first; None where a download failed."""
        return next(iter(self.pictures), None)

    @property
    def pictures(self) -> list[bytes]:
        return [data for kind, data in self.members.items() if kind not in ("txt", "json", "npz")]

    @property
    def caption(self) -> str | None:
        return text_of(self.members["txt"]) if "txt" in self.members else None

    @property
    def notes(self) -> Mapping[str, Any]:
        """As img2dataset writes them."""
        return object_of(self.members.get("json", b"{}"))


def tar_examples(path: Path) -> Iterator[TarExample]:
    """Examples of a tar, in its order; their files follow each other.

    Raises:
      DamagedTarError: after the whole examples before the damage.
      InputError: if the file cannot be read, which says nothing of what is in it.
    """
    members: dict[str, bytes] = {}
    key = ""
    try:
        # A name that is not UTF-8 is spelled, where tarfile would make half a character of it.
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
        damaged.lost = TarExample(key, members).picture is not None
        raise damaged from error


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuses a tar that stops without the zeros at its end.

    tarfile takes a broken header, or none, for the end, and says nothing of what lay behind it.
    """
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("truncated, or broken header")


def text_of(data: bytes) -> str:
    return data.decode("utf-8", errors="replace").strip()


def object_of(data: bytes) -> Mapping[str, Any]:
    """A JSON object, or an empty one where the file holds something else."""
    try:
        notes = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}
