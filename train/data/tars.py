"""Reads web datasets: tars in which an image, its caption and its metadata share a name."""

import bz2
import contextlib
import dataclasses
import functools
import gzip
import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from instantid_jax.atomic import is_hidden
from instantid_jax.errors import InputError
from instantid_jax.images import image_suffixes
from train.data.sidecars import CAPTIONS, NOTES, Sidecars, parse_sidecars

FACE = "npz"
COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
# What tarfile and the decompressors raise for damaged files.
DAMAGE = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)


class DamagedTarError(InputError):
    """A tar that is truncated or unreadable from some point on.

    Attributes:
      lost: whether the damage is inside an example's image.
    """

    lost: bool = False


@dataclasses.dataclass(frozen=True)
class TarExample:
    """The files that share a name up to the last dot.

    Attributes:
      key: that name.
      images: contents of the image files, which differ in their endings.
      sidecars: caption and metadata.
      face: contents of the `.npz`, if any.
      repeated: number of files left out, because an earlier one has the same name.
    """

    key: str
    images: list[bytes]
    sidecars: Sidecars
    face: bytes | None
    repeated: int


@dataclasses.dataclass
class _Members:
    """An example's files in a tar, by lower-case ending."""

    files: dict[str, tarfile.TarInfo] = dataclasses.field(default_factory=dict)
    repeated: int = 0

    @property
    def images(self) -> list[str]:
        return [kind for kind in self.files if kind in _image_kinds()]

    def read(self, key: str, tar: tarfile.TarFile) -> TarExample:
        data = {}
        for kind, member in self.files.items():
            opened = tar.extractfile(member)
            assert opened is not None  # it is a file
            data[kind] = opened.read()
        images = [data[kind] for kind in self.images]
        return TarExample(key, images, parse_sidecars(data), data.get(FACE), self.repeated)


def tar_examples(path: Path) -> Iterator[TarExample]:
    """Yields the examples of a tar, ordered by their first files; the files may have any order.

    Leaves out hidden files, which are other systems' metadata, and those with endings that are
    not read. The examples may have no image, after a failed download.

    Raises:
      DamagedTarError: after yielding the examples before the damage.
      InputError: if the file system fails to read it.
    """
    last: _Members | None = None
    try:
        with _decompressed(path) as (file, damage):
            # Escapes names that are not UTF-8; tarfile's default gives lone surrogates.
            with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar:
                examples, last_key, fault = _index(tar)
                damage = damage or fault
                last = None if damage is None else examples.pop(last_key, None)
                for key, members in examples.items():
                    yield members.read(key, tar)
            if damage is not None:
                raise damage
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        damaged = DamagedTarError(f"{path} is a damaged tar ({error}): copy or download it again")
        damaged.lost = last is not None and bool(last.images)
        raise damaged from error


def count_left_out(example: TarExample, rejected: Counter[str]) -> None:
    """Counts, by reason, the files of an example that give no record: one takes its first image."""
    if not example.images:
        rejected["no image"] += 1
    if repeated := example.repeated + len(example.images[1:]):
        rejected["duplicate name"] += repeated


@contextlib.contextmanager
def _decompressed(path: Path) -> Iterator[tuple[IO[bytes], Exception | None]]:
    """The bytes of a tar that may be compressed, and the damage after which there are no more."""
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        unpack = next((u for magic, u in COMPRESSIONS.items() if start.startswith(magic)), None)
        if unpack is None:
            yield file, None
            return
        # Members are read in another order than they come in.
        with tempfile.TemporaryFile() as scratch:
            damage = None
            try:
                with unpack(file) as packed:
                    shutil.copyfileobj(packed, scratch)
            except DAMAGE as error:
                if isinstance(error, OSError) and error.errno:
                    raise
                damage = error
            scratch.seek(0)
            yield scratch, damage


def _index(tar: tarfile.TarFile) -> tuple[dict[str, _Members], str, Exception | None]:
    """Files by example; the example of the last one; and the damage after it, if any."""
    examples: dict[str, _Members] = {}
    key = ""
    try:
        for member in tar:
            path = Path(member.name)
            kind = path.suffix[1:].lower()
            key = path.with_suffix("").as_posix() if path.suffix else path.as_posix()
            if not member.isfile() or is_hidden(path, Path(path.anchor)) or kind not in _kinds():
                continue
            found = examples.setdefault(key, _Members())
            found.repeated += kind in found.files
            found.files.setdefault(kind, member)
        _check_end(tar)
    except DAMAGE as error:
        return examples, key, error
    return examples, key, None


@functools.cache
def _image_kinds() -> frozenset[str]:
    return frozenset(suffix[1:] for suffix in image_suffixes())


@functools.cache
def _kinds() -> frozenset[str]:
    return _image_kinds() | {*CAPTIONS, NOTES, FACE}


def _check_end(tar: tarfile.TarFile) -> None:
    """Raises ReadError unless the tar ends with a block of zeros.

    tarfile silently takes a broken or missing header for the end.
    """
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("truncated, or broken header")
