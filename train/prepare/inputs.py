"""Splits the input into shards, the units of work, and reads their images.

A shard is an img2dataset tar, a parquet file of images, or a thousand images of a folder.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from instantid_jax.atomic import is_hidden
from instantid_jax.errors import InputError
from instantid_jax.images import find_images
from train.data.sidecars import Sidecars, read_sidecars
from train.data.tars import DamagedTarError, count_left_out, tar_examples

IMAGES_PER_SHARD = 1000
TARS = (".tar", ".tar.gz", ".tgz")
# Rows of a parquet file to hold in memory.
ROWS = 64
# Names of a parquet file's columns. Images are bytes, or a struct with a field `bytes`.
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes")
CAPTION_COLUMNS = ("caption", "TEXT", "text")


@dataclasses.dataclass(frozen=True)
class Entry:
    """An image file and its metadata.

    Attributes:
      key: its name in the input.
      image: contents of the file.
      sidecars: caption and metadata.
    """

    key: str
    image: bytes = dataclasses.field(repr=False)
    sidecars: Sidecars


@dataclasses.dataclass(frozen=True)
class InputShard:
    """A part of the input.

    Attributes:
      root: folder that `names` are relative to.
      names: one tar or parquet file, or many image files.
    """

    root: Path
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name in manifests."""
        return self.names[0]

    def entries(self, rejected: Counter[str]) -> Iterator[Entry]:
        """Reads the shard's images in order.

        Args:
          rejected: counts unreadable files by reason.
        """
        path = self.root / self.names[0]
        if path.name.endswith(TARS):
            return _of_tar(path, rejected)
        if path.suffix == ".parquet":
            return _of_parquet(path, rejected)
        return _of_files(self.root, self.names)


def find_shards(source: Path) -> list[InputShard]:
    """Lists the shards of a file or folder, ordered by name.

    A folder is searched recursively for tars, then for parquet files (next to tars these are
    img2dataset's metadata), then for images; the first kind found is used.

    Raises:
      InputError: if there is nothing to read.
    """
    shards = _find_shards(source)
    first = shards[0].root / shards[0].name
    if first.suffix == ".parquet":
        # Before anything is written. `entries` counts what a damaged file loses.
        for _ in _of_parquet(first, Counter()):
            break
    return shards


def _find_shards(source: Path) -> list[InputShard]:
    if source.name.endswith((*TARS, ".parquet")) and source.is_file():
        return [InputShard(source.parent, (source.name,))]
    if not source.is_dir():
        raise InputError(f"--input {source}: expected a folder, a .tar or a .parquet")
    files = [path for path in source.rglob("*") if _is_shard(path, source)]
    for endings in (TARS, (".parquet",)):
        if found := sorted(path for path in files if path.name.endswith(endings)):
            return [InputShard(source, (path.relative_to(source).as_posix(),)) for path in found]
    try:
        names = [path.relative_to(source).as_posix() for path in find_images(source)]
    except InputError as error:
        raise InputError(f"{error}, .tar or .parquet") from error
    return [
        InputShard(source, tuple(names[start : start + IMAGES_PER_SHARD]))
        for start in range(0, len(names), IMAGES_PER_SHARD)
    ]


def _is_shard(path: Path, source: Path) -> bool:
    """Whether a path is a tar or parquet file. Hidden files are other systems' metadata."""
    named = path.name.endswith((*TARS, ".parquet")) and not is_hidden(path, source)
    return named and path.is_file()


def _of_tar(path: Path, rejected: Counter[str]) -> Iterator[Entry]:
    try:
        for example in tar_examples(path):
            count_left_out(example, rejected)
            for image in example.images[:1]:
                yield Entry(example.key, image, example.sidecars)
    except DamagedTarError as error:
        # The number of images lost after the damage is unknown.
        rejected["truncated tar member" if error.lost else "damaged tar"] += 1


def _of_files(root: Path, names: tuple[str, ...]) -> Iterator[Entry]:
    for name in names:
        path = root / name
        key = Path(name).with_suffix("").as_posix()
        yield Entry(key, path.read_bytes(), read_sidecars(path))


def _of_parquet(path: Path, rejected: Counter[str]) -> Iterator[Entry]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            image = next((name for name in IMAGE_COLUMNS if name in columns), None)
            caption = next((name for name in CAPTION_COLUMNS if name in columns), None)
            if image is None:
                raise InputError(
                    f"{path} has the columns {', '.join(columns)}: expected an image column, "
                    f"one of {', '.join(IMAGE_COLUMNS)}"
                )
            number = 0
            for batch in file.iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    data = row.pop(image)
                    data = data.get("bytes") if isinstance(data, dict) else data
                    text = row.pop(caption) if caption else None
                    key = str(row.get("key") or f"{path.stem}/{number:08}")
                    number += 1
                    sidecars = Sidecars(None if text is None else str(text), row)
                    yield Entry(key, data or b"", sidecars)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        # The number of images lost is unknown.
        rejected["unreadable parquet file"] += 1
