"""Reads the input of a dataset: images with captions, metadata and faces, in a folder or tars."""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instantid_jax.atomic import is_hidden
from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.images import find_images
from train.data.record_builder import Rejected
from train.data.tars import TarExample, object_of, tar_examples, text_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """An image that may become a record.

    Attributes:
      key: its name in the input.
      image: contents of the file.
      caption: contents of its `.txt`, if any.
      notes: contents of its `.json`, in img2dataset's format.
      face: contents of its `.npz`, or the reason for its absence.
    """

    key: str
    image: bytes
    caption: str | None
    notes: Mapping[str, Any]
    face: Face | Rejected


def find_candidates(source: Path, faces: Path | None = None) -> Iterator[Candidate]:
    """Reads a folder of images, a `.tar`, or a folder of `.tar`s, ordered by name.

    Args:
      faces: folder of the `.npz` files: a/b.npz for image a/b.jpg, b.npz for example b of a tar. By
        default they are next to the images.
    Raises:
      InputError: if there is nothing to read, or a tar is damaged.
    """
    if faces is not None and not faces.is_dir():
        raise InputError(
            f"--faces {faces} is not a folder: expected the output of `instantid embed`"
        )
    if source.suffix == ".tar":
        tars = [source]
    else:
        tars = sorted(path for path in source.glob("*.tar") if not is_hidden(path, source))
    if not tars:
        return _in_folder(source, faces)
    return (candidate for tar in tars for candidate in _in_tar(tar, faces))


def _in_folder(source: Path, faces: Path | None) -> Iterator[Candidate]:
    if not source.is_dir():
        raise InputError(
            f"{source} is not a folder: expected a folder of images or of img2dataset .tar files"
        )
    for path in find_images(source):
        name = path.relative_to(source)
        caption, notes = path.with_suffix(".txt"), path.with_suffix(".json")
        yield Candidate(
            key=name.with_suffix("").as_posix(),
            image=path.read_bytes(),
            caption=text_of(caption.read_bytes()) if caption.is_file() else None,
            notes=object_of(notes.read_bytes()) if notes.is_file() else {},
            face=_face((faces or source) / name.with_suffix(".npz")),
        )


def _in_tar(path: Path, faces: Path | None) -> Iterator[Candidate]:
    with tempfile.TemporaryDirectory() as scratch:
        for example in tar_examples(path):
            yield from _example(example, faces, Path(scratch))


def _example(example: TarExample, faces: Path | None, scratch: Path) -> Iterator[Candidate]:
    if example.image is None:
        return  # a failed download: only its text and metadata are there
    if faces is None and "npz" in example.members:
        file = scratch / "face.npz"
        file.write_bytes(example.members["npz"])
    else:
        file = (faces or scratch) / f"{example.key}.npz"
    yield Candidate(
        key=example.key,
        image=example.image,
        caption=example.caption,
        notes=example.notes,
        face=_face(file),
    )


def _face(path: Path) -> Face | Rejected:
    if not path.is_file():
        return Rejected("no face file")
    try:
        return Face.load(path)
    except InputError:
        return Rejected("unreadable face file")
