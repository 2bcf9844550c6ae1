"""Writes a dataset: ArrayRecord shards that TFDS reads, an index, and a manifest."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from instantid_jax.atomic import new_folder
from instantid_jax.errors import InputError
from instantid_jax.json_files import write_json
from train.data.buckets import Size, aspect_buckets, nearest_buckets
from train.data.faces import face_share
from train.data.record import Record, features, picture_hash

NAME, VERSION = "instantid_faces", "1.0.0"
INDEX, MANIFEST = "index.npz", "manifest.json"
# Random access reads whole groups.
_WRITER_OPTIONS = "group_size:1"


def write_dataset(
    output: str | Path,
    records: Iterable[tuple[Record, Size]],
    *,
    shards: int = 1,
    embedding_size: int = 512,
    buckets: Sequence[Size] = aspect_buckets(1024),
    rejected: Mapping[str, int] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes records as they come; the folder appears whole or not at all.

    `output` gets `instantid_faces/1.0.0/` for TFDS, in it `index.npz`, and `manifest.json`. Record
    i goes to shard i mod `shards`; the same records give the same bytes.

    Args:
      output: a new or empty folder.
      records: each with the (height, width) of its picture as stored.
      buckets: for the index; training may use others, which it then works out from the sizes.
      rejected: how many were rejected for which reason; read after the last record.
      notes: further entries of the manifest.
    Returns:
      The manifest: `seen`, `kept`, `rejected`, `buckets`, `fingerprint` and the notes.
    Raises:
      InputError: if the folder has something in it, or there is no record.
    """
    if shards < 1:
        raise InputError(f"shards={shards}: expected 1 or more")
    try:
        with new_folder(output) as temporary:
            folder = temporary / NAME / VERSION
            folder.mkdir(parents=True)
            contents = _write_shards(folder, records, shards, embedding_size)
            rejected = dict(rejected or {})
            kept = sum(len(shard.sizes) for shard in contents)
            if not kept:
                told = ", ".join(f"{n} {reason}" for reason, n in rejected.items()) or "none seen"
                raise InputError(f"no usable image ({told}): nothing is written")
            index = write_metadata(folder, contents, embedding_size, buckets)
            counts = Counter(index["bucket"].tolist())
            manifest = {
                "seen": kept + sum(rejected.values()),
                "kept": kept,
                "rejected": rejected,
                "buckets": {f"{h}x{w}": counts[i] for i, (h, w) in enumerate(buckets)},
                "fingerprint": str(index["fingerprint"]),
                **(notes or {}),
            }
            write_json(temporary / MANIFEST, manifest)
    except FileExistsError as error:
        raise InputError(f"{error}: pass a new folder for the dataset") from error
    return manifest


class ShardContents(NamedTuple):
    """What is told of a shard's n records.

    Attributes:
      sizes: [n, 2] int32, heights and widths of the pictures.
      face_share: [n] float32.
      digest: SHA-256 over the records' own, in hex.
      num_bytes: of all records.
    """

    sizes: np.ndarray
    face_share: np.ndarray
    digest: str
    num_bytes: int


class ShardWriter:
    """Writes the records of one shard, as a context; afterwards `contents` tells of them."""

    def __init__(self, path: Path, embedding_size: int):
        self._feature = features(embedding_size)
        self._serializer = ExampleSerializer(self._feature.get_serialized_info())
        self._path = path
        with self._told():
            self._writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        self._sizes: list[Size] = []
        self._shares: list[float] = []
        self._hash = hashlib.sha256()
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with self._told() if kind is None else contextlib.suppress(RuntimeError):
            self._writer.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """ArrayRecord's own errors, such as of a full disk, in one line."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).split(";")[0]
            raise InputError(
                f"{self._path} cannot be written ({reason}): fix that, then rerun"
            ) from error

    def write(self, record: Record, size: Size) -> None:
        """Writes a record whose picture is of this (height, width)."""
        example = self._serializer.get_tf_example(self._feature.encode_example(record.encode()))
        # Else the order of the fields differs from process to process.
        data = example.SerializeToString(deterministic=True)
        with self._told():
            self._writer.write(data)
        self._sizes.append(size)
        self._shares.append(face_share(record.bbox, size))
        self._hash.update(hashlib.sha256(data).digest())
        self._bytes += len(data)

    @property
    def contents(self) -> ShardContents:
        sizes = np.array(self._sizes, np.int32).reshape(-1, 2)
        shares = np.array(self._shares, np.float32)
        return ShardContents(sizes, shares, self._hash.hexdigest(), self._bytes)


def shard_path(folder: Path, shard: int, shards: int) -> Path:
    """Where TFDS looks for one of so many shards."""
    return Path(_template(folder).sharded_filepath(shard_index=shard, num_shards=shards))


def write_metadata(
    folder: Path,
    contents: Sequence[ShardContents],
    embedding_size: int,
    buckets: Sequence[Size] = aspect_buckets(1024),
) -> dict[str, np.ndarray]:
    """Writes TFDS's metadata and `index.npz` beside the shards; returns the index.

    Args:
      folder: which holds the shards under the names that `shard_path` gives.
      contents: of each shard.
    """
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(embedding_size),
        split_infos=[split_info(folder, contents)],
        version=VERSION,
        check_data=False,  # the check reads through tensorflow
        description="Pictures with one measured face each, for training InstantID.",
    )
    return write_index(folder, contents, buckets)


def split_info(folder: Path, contents: Sequence[ShardContents]) -> tfds.core.SplitInfo:
    """What TFDS is told of the shards in a folder."""
    return tfds.core.SplitInfo(
        name="train",
        shard_lengths=[len(shard.sizes) for shard in contents],
        num_bytes=sum(shard.num_bytes for shard in contents),
        filename_template=_template(folder),
    )


def write_index(
    folder: Path,
    contents: Sequence[ShardContents],
    buckets: Sequence[Size] = aspect_buckets(1024),
) -> dict[str, np.ndarray]:
    """Writes `index.npz`, by which training chooses records; returns it."""
    sizes = np.concatenate([shard.sizes for shard in contents])
    digests = b"".join(bytes.fromhex(shard.digest) for shard in contents)
    index = {
        "image_size": sizes,
        "face_share": np.concatenate([shard.face_share for shard in contents]),
        "bucket": nearest_buckets(sizes, buckets),
        "fingerprint": np.array(picture_hash(digests)),
    }
    np.savez(folder / INDEX, **index, buckets=np.array(buckets, np.int32))
    return index


def _template(folder: Path) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=NAME, split="train", filetype_suffix="array_record"
    )


def _write_shards(
    folder: Path, records: Iterable[tuple[Record, Size]], shards: int, embedding_size: int
) -> list[ShardContents]:
    """Record i goes to shard i mod `shards`."""
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(ShardWriter(shard_path(folder, i, shards), embedding_size))
            for i in range(shards)
        ]
        for i, (record, size) in enumerate(records):
            writers[i % shards].write(record, size)
    return [writer.contents for writer in writers]
