"""The input as a list of shards, each the work of one process at a time, and the pictures in one.

A shard is a tar of img2dataset, a parquet file with pictures in it, or a thousand pictures of a
folder.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instantid_jax.atomic import is_hidden
from instantid_jax.errors import InputError
from instantid_jax.pictures import find_pictures
from train.data.tars import DamagedTarError, object_of, tar_examples, text_of

PICTURES_A_SHARD = 1000
TARS = (".tar", ".tar.gz", ".tgz")
# Rows of a parquet file that are in memory at a time.
ROWS = 64
# Columns of a parquet file by what is in them; a picture may be bytes, or a struct with `bytes`.
PICTURE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes")
CAPTION_COLUMNS = ("caption", "TEXT", "text")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A picture and what is known of it.

    Attributes:
      key: its name in the input.
      picture: the file's bytes.
      caption: or None.
      notes: under img2dataset's names.
    """

    key: str
    picture: bytes = dataclasses.field(repr=False)
    caption: str | None
    notes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class InputShard:
    """A part of the input.

    Attributes:
      root: the folder that names are relative to.
      names: of its files; of a folder's many, else of one.
    """

    root: Path
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called in manifests."""
        return self.names[0]

    def entries(self, rejected: Counter[str]) -> Iterator[Entry]:
        """Its pictures, in its order.

        Args:
          rejected: counts what cannot be read.
        """
        path = self.root / self.names[0]
        if path.name.endswith(TARS):
            return _of_tar(path, rejected)
        if path.suffix == ".parquet":
            return _of_parquet(path, rejected)
        return _of_files(self.root, self.names)


def find_shards(source: Path) -> list[InputShard]:
    """The shards of a file or a folder, in the order of their names.

    Of a folder its tars, where there are none its parquet files (beside tars they are img2dataset's
    notes), where there are none either its pictures, sub-folders included.

    Raises:
      InputError: if there is nothing to read.
    """
    if source.name.endswith((*TARS, ".parquet")) and source.is_file():
        return [InputShard(source.parent, (source.name,))]
    if not source.is_dir():
        raise InputError(f"--input {source}: expected a folder, a .tar or a .parquet")
    files = [path for path in source.rglob("*") if _is_shard(path, source)]
    for endings in (TARS, (".parquet",)):
        if found := sorted(path for path in files if path.name.endswith(endings)):
            return [InputShard(source, (path.relative_to(source).as_posix(),)) for path in found]
    try:
        names = [path.relative_to(source).as_posix() for path in find_pictures(source)]
    except InputError as error:
        raise InputError(f"{error}, .tar or .parquet") from error
    return [
        InputShard(source, tuple(names[start : start + PICTURES_A_SHARD]))
        for start in range(0, len(names), PICTURES_A_SHARD)
    ]


def _is_shard(path: Path, source: Path) -> bool:
    """Whether a file is a tar or parquet; hidden ones are other systems' notes."""
    named = path.name.endswith((*TARS, ".parquet")) and not is_hidden(path, source)
    return named and path.is_file()


def _of_tar(path: Path, rejected: Counter[str]) -> Iterator[Entry]:
    try:
        for example in tar_examples(path):
            # One under its name is taken; two are seen, and the second is rejected.
            for picture in example.pictures:
                yield Entry(example.key, picture, example.caption, example.notes)
    except DamagedTarError as error:
        # Where no picture was begun, how many are lost with it nobody can tell.
        rejected["truncated tar member" if error.lost else "damaged tar"] += 1


def _of_files(root: Path, names: tuple[str, ...]) -> Iterator[Entry]:
    for name in names:
        path = root / name
        caption, notes = path.with_suffix(".txt"), path.with_suffix(".json")
        yield Entry(
            key=Path(name).with_suffix("").as_posix(),
            picture=path.read_bytes(),
            caption=text_of(caption.read_bytes()) if caption.is_file() else None,
            notes=object_of(notes.read_bytes()) if notes.is_file() else {},
        )


def _of_parquet(path: Path, rejected: Counter[str]) -> Iterator[Entry]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            picture = next((name for name in PICTURE_COLUMNS if name in columns), None)
            caption = next((name for name in CAPTION_COLUMNS if name in columns), None)
            if picture is None:
                raise InputError(
                    f"{path} has the columns {', '.join(columns)}: expected an image column, "
                    f"one of {', '.join(PICTURE_COLUMNS)}"
                )
            number = 0
            for batch in file.iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    data = row.pop(picture)
                    data = data.get("bytes") if isinstance(data, dict) else data
                    text = row.pop(caption) if caption else None
                    key = str(row.get("key") or f"{path.stem}/{number:08}")
                    number += 1
                    yield Entry(key, data or b"", None if text is None else str(text), row)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        # How many pictures are lost with it nobody can tell.
        rejected["unreadable parquet file"] += 1
