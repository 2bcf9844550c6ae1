"""img2dataset's tars: a picture, its caption and its notes under one name, one after the other."""

import dataclasses
import json
import tarfile
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
        """None where a download failed."""
        of_pictures = (k for k in self.members if k not in ("txt", "json", "npz"))
        kind = next(of_pictures, None)
        return None if kind is None else self.members[kind]

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
      InputError: if there is no such file.
    """
    members: dict[str, bytes] = {}
    key = ""
    try:
        with tarfile.open(path) as tar:
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
            if members:
                yield TarExample(key, members)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        damaged = DamagedTarError(f"{path} is a damaged tar ({error}): get a whole copy")
        damaged.lost = TarExample(key, members).picture is not None
        raise damaged from error


def text_of(data: bytes) -> str:
    return data.decode("utf-8", errors="replace").strip()


def object_of(data: bytes) -> Mapping[str, Any]:
    """A JSON object, or an empty one where the file holds something else."""
    try:
        notes = json.loads(data)
    except ValueError:
        return {}
    return notes if isinstance(notes, dict) else {}
