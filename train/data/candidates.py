"""What a dataset can be built from: pictures with what lies beside them, in a folder or a tar."""

import dataclasses
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.pictures import find_pictures


class Rejected(Exception):
    """A picture that the dataset does not take; the text is the reason, one of a few."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A picture that may become a record.

    Attributes:
      key: its name in the input.
      picture: the file's bytes.
      caption: of the `.txt` beside it, or None.
      notes: the JSON object of the `.json` beside it, as img2dataset writes.
      face: of the `.npz` beside it, or why there is none.
    """

    key: str
    picture: bytes
    caption: str | None
    notes: Mapping[str, Any]
    face: Face | Rejected


def find_candidates(source: Path, faces: Path | None = None) -> Iterator[Candidate]:
    """Reads a folder of pictures, a `.tar`, or a folder of `.tar`s, in the order of names.

    Args:
      faces: a folder where the `.npz` of picture a/b.jpg, or of a tar's example b, is a/b.npz or
        b.npz; by default they lie beside the pictures.
    Raises:
      InputError: if there is nothing to read, or a tar is damaged.
    """
    if faces is not None and not faces.is_dir():
        raise InputError(f"--faces {faces} is no folder: expected what `instantid embed` wrote")
    tars = [source] if source.suffix == ".tar" else sorted(source.glob("*.tar"))
    if not tars:
        return _in_folder(source, faces)
    return (candidate for tar in tars for candidate in _in_tar(tar, faces))


def _in_folder(source: Path, faces: Path | None) -> Iterator[Candidate]:
    if not source.is_dir():
        raise InputError(f"{source} is no folder: expected pictures, or img2dataset's .tar files")
    for path in find_pictures(source):
        name = path.relative_to(source)
        caption, notes = path.with_suffix(".txt"), path.with_suffix(".json")
        yield Candidate(
            key=name.with_suffix("").as_posix(),
            picture=path.read_bytes(),
            caption=_text(caption.read_bytes()) if caption.is_file() else None,
            notes=_object(notes.read_bytes()) if notes.is_file() else {},
            face=_face((faces or source) / name.with_suffix(".npz")),
        )


def _in_tar(path: Path, faces: Path | None) -> Iterator[Candidate]:
    """Members of one example share the name up to the first dot and follow each other."""
    try:
        with tarfile.open(path) as tar, tempfile.TemporaryDirectory() as scratch:
            members: dict[str, bytes] = {}
            key = ""
            for member in tar:
                if not member.isfile():
                    continue
                name = Path(member.name)
                stem, _, kind = name.name.partition(".")
                of = (name.parent / stem).as_posix()
                if of != key and members:
                    yield from _example(key, members, faces, Path(scratch))
                    members = {}
                key = of
                opened = tar.extractfile(member)
                assert opened is not None  # it is a file
                members[kind.lower()] = opened.read()
            yield from _example(key, members, faces, Path(scratch))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{path} is a damaged tar ({error}): get a whole copy") from error


def _example(
    key: str, members: Mapping[str, bytes], faces: Path | None, scratch: Path
) -> Iterator[Candidate]:
    pictures = [data for kind, data in members.items() if kind not in ("txt", "json", "npz")]
    if not pictures:
        return  # a download that failed leaves its text alone
    if faces is None and "npz" in members:
        file = scratch / "face.npz"
        file.write_bytes(members["npz"])
    else:
        file = (faces or scratch) / f"{key}.npz"
    yield Candidate(
        key=key,
        picture=pictures[0],
        caption=_text(members["txt"]) if "txt" in members else None,
        notes=_object(members.get("json", b"{}")),
        face=_face(file),
    )


def _face(path: Path) -> Face | Rejected:
    if not path.is_file():
        return Rejected("no face file")
    try:
        return Face.load(path)
    except InputError:
        return Rejected("unreadable face file")


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace").strip()


def _object(data: bytes) -> Mapping[str, Any]:
    """A JSON object, or an empty one where the file holds something else."""
    try:
        notes = json.loads(data)
    except ValueError:
        return {}
    return notes if isinstance(notes, dict) else {}
