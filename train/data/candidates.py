"""Reads the input of a dataset: images with captions, metadata and faces, in a folder or tars."""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from instantid_jax.atomic import is_hidden
from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.images import find_images
from train.data.record_builder import Rejected
from train.data.sidecars import Sidecars, read_sidecars
from train.data.tars import TarExample, count_left_out, tar_examples


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An image that may become a record.

    Attributes:
      key: its name in the input.
      image: contents of the file.
      sidecars: caption and metadata.
      face: contents of its `.npz`, or the reason for its absence.
    """

    key: str
    image: bytes
    sidecars: Sidecars
    face: Face | Rejected


def find_candidates(
    source: Path, faces: Path | None, rejected: Counter[str]
) -> Iterator[Candidate]:
    """Reads a folder of images, a `.tar`, or a folder of `.tar`s, ordered by name.

    Args:
      faces: folder of the `.npz` files: a/b.npz for image a/b.jpg, b.npz for example b of a tar. By
        default they are next to the images.
      rejected: counts what has no image, or an image of the same name, by reason.
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
    return (candidate for tar in tars for candidate in _in_tar(tar, faces, rejected))


def _in_folder(source: Path, faces: Path | None) -> Iterator[Candidate]:
    if not source.is_dir():
        raise InputError(
            f"{source} is not a folder: expected a folder of images or of img2dataset .tar files"
        )
    for path in find_images(source):
        name = path.relative_to(source)
        yield Candidate(
            name.with_suffix("").as_posix(),
            image=path.read_bytes(),
            sidecars=read_sidecars(path),
            face=_face((faces or source) / name.with_suffix(".npz")),
        )


def _in_tar(path: Path, faces: Path | None, rejected: Counter[str]) -> Iterator[Candidate]:
    with tempfile.TemporaryDirectory() as scratch:
        for example in tar_examples(path):
            count_left_out(example, rejected)
            face = _face(_face_file(example, faces, Path(scratch)))
            for image in example.images[:1]:
                yield Candidate(example.key, image, example.sidecars, face)


def _face_file(example: TarExample, faces: Path | None, scratch: Path) -> Path:
    if faces is None and example.face is not None:
        file = scratch / "face.npz"
        file.write_bytes(example.face)
        return file
    return (faces or scratch) / f"{example.key}.npz"


def _face(path: Path) -> Face | Rejected:
    if not path.is_file():
        return Rejected("no face file")
    try:
        return Face.load(path)
    except InputError:
        return Rejected("unreadable face file")
