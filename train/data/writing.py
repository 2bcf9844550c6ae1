"""Writes a dataset: ArrayRecord shards that TFDS reads, an index, and a manifest."""

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from instantid_jax.atomic import new_folder
from instantid_jax.errors import InputError
from instantid_jax.json_files import write_json
from instantid_jax.paths import utf8_path
from train.data.buckets import Size, aspect_buckets, count_enlarged, nearest_buckets
from train.data.faces import face_share
from train.data.record import Record, features, image_hash
from train.data.record_builder import DECIDING_OPTIONS

logger = logging.getLogger(__name__)

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
    recognizers: Collection[str | None] = (),
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes a dataset atomically, streaming the records.

    `output` gets `instantid_faces/1.0.0/` for TFDS, with `index.npz` inside, and `manifest.json`.
    Record i goes to shard i mod `shards`; the same records give the same bytes.

    Args:
      output: a new or empty folder.
      records: each with the (height, width) of its stored image.
      buckets: buckets of the index; training computes others from the sizes.
      rejected: number of rejected images by reason; read after the last record.
      recognizers: SHA-256 of the recognizers that measured the faces, None for those that do not
        say it; read after the last record.
      notes: further entries of the manifest.
    Returns:
      The manifest: `outcome` and the notes.
    Raises:
      InputError: if the folder is not empty, or there are no records.
    """
    if shards < 1:
        raise InputError(f"shards={shards}: expected 1 or more")
    try:
        with new_folder(utf8_path(output)) as temporary:
            folder = temporary / NAME / VERSION
            folder.mkdir(parents=True)
            contents = _write_shards(folder, records, shards, embedding_size)
            rejected = dict(rejected or {})
            kept = sum(len(shard.sizes) for shard in contents)
            if not kept:
                raise no_usable_image(rejected)
            # If some faces do not say theirs, neither does the dataset.
            (recognizer,) = recognizers if len(recognizers) == 1 else (None,)
            index = write_metadata(folder, contents, embedding_size, buckets, recognizer)
            manifest = {**outcome(index, buckets, rejected), **(notes or {})}
            write_json(temporary / MANIFEST, manifest)
    except FileExistsError as error:
        raise InputError(f"{error}: pass a new folder for the dataset") from error
    return manifest


class ShardContents(NamedTuple):
    """Metadata of a shard's n records.

    Attributes:
      sizes: [n, 2] int32, heights and widths of the images.
      face_share: [n] float32.
      digest: SHA-256 of the records' SHA-256 hashes, in hex.
      num_bytes: total size of the records.
      captioned: number of records with a caption.
      referenced: number of records with embeddings of other photos of the person.
    """

    sizes: np.ndarray
    face_share: np.ndarray
    digest: str
    num_bytes: int
    captioned: int
    referenced: int


class ShardWriter:
    """Writes the records of one shard. A context manager; `contents` describes them afterwards."""

    def __init__(self, path: Path, embedding_size: int):
        self._feature = features(embedding_size)
        self._serializer = ExampleSerializer(self._feature.get_serialized_info())
        self._path = path
        with self._one_line_errors():
            self._writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        self._sizes: list[Size] = []
        self._shares: list[float] = []
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._captioned = self._referenced = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with self._one_line_errors() if kind is None else contextlib.suppress(RuntimeError):
            self._writer.close()

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Turns ArrayRecord's errors, for example on a full disk, into one line."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).split(";")[0]
            raise InputError(
                f"{self._path} cannot be written ({reason}): fix that, then rerun"
            ) from error

    def write(self, record: Record, size: Size) -> None:
        """Writes a record with an image of `size` (height, width)."""
        example = self._serializer.get_tf_example(self._feature.encode_example(record.encode()))
        # By default the order of the fields differs between processes.
        data = example.SerializeToString(deterministic=True)
        with self._one_line_errors():
            self._writer.write(data)
        self._sizes.append(size)
        self._shares.append(face_share(record.bbox, size))
        self._hash.update(hashlib.sha256(data).digest())
        self._bytes += len(data)
        self._captioned += bool(record.captions)
        self._referenced += len(record.reference_embeddings) > 0

    @property
    def contents(self) -> ShardContents:
        sizes = np.array(self._sizes, np.int32).reshape(-1, 2)
        shares = np.array(self._shares, np.float32)
        return ShardContents(
            sizes,
            shares,
            self._hash.hexdigest(),
            self._bytes,
            self._captioned,
            self._referenced,
        )


def shard_path(folder: Path, shard: int, shards: int) -> Path:
    """The path of a shard in TFDS's naming scheme."""
    return Path(_template(folder).sharded_filepath(shard_index=shard, num_shards=shards))


def write_metadata(
    folder: Path,
    contents: Sequence[ShardContents],
    embedding_size: int,
    buckets: Sequence[Size] = aspect_buckets(1024),
    recognizer: str | None = None,
) -> dict[str, np.ndarray]:
    """Writes TFDS's metadata and `index.npz` next to the shards; returns the index.

    Args:
      folder: contains the shards under the names of `shard_path`.
      contents: metadata of each shard.
    """
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(embedding_size),
        split_infos=[split_info(folder, contents)],
        version=VERSION,
        check_data=False,  # the check imports tensorflow
        description="Images with one analyzed face each, for training InstantID.",
    )
    return write_index(folder, contents, buckets, recognizer)


def split_info(folder: Path, contents: Sequence[ShardContents]) -> tfds.core.SplitInfo:
    """TFDS's description of the shards in a folder."""
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
    recognizer: str | None = None,
) -> dict[str, np.ndarray]:
    """Writes and returns `index.npz`, from which training selects records."""
    sizes = np.concatenate([shard.sizes for shard in contents])
    digests = b"".join(bytes.fromhex(shard.digest) for shard in contents)
    index = {
        "image_size": sizes,
        "face_share": np.concatenate([shard.face_share for shard in contents]),
        "bucket": nearest_buckets(sizes, buckets),
        "fingerprint": np.array(image_hash(digests)),
        "captioned": np.array(sum(shard.captioned for shard in contents)),
        "referenced": np.array(sum(shard.referenced for shard in contents)),
        "recognizer": np.array(recognizer or ""),
    }
    np.savez(folder / INDEX, **index, buckets=np.array(buckets, np.int32))
    return index


def outcome(
    index: Mapping[str, np.ndarray], buckets: Sequence[Size], rejected: Mapping[str, int]
) -> dict[str, Any]:
    """The counts of a manifest: images kept, and images rejected by reason."""
    kept = len(index["image_size"])
    counts = Counter(index["bucket"].tolist())
    return {
        "seen": kept + sum(rejected.values()),
        "kept": kept,
        "rejected": dict(rejected),
        "buckets": {f"{h}x{w}": counts[i] for i, (h, w) in enumerate(buckets)},
        "enlarged": count_enlarged(index["image_size"], buckets),
        "without_caption": kept - int(index["captioned"]),
        "fingerprint": str(index["fingerprint"]),
    }


def no_usable_image(rejected: Mapping[str, int]) -> InputError:
    """The error of an input without a usable image."""
    reasons = ", ".join(f"{count} {_decided(reason)}" for reason, count in rejected.items())
    return InputError(f"no usable image ({reasons or 'none seen'})")


def print_outcome(manifest: Mapping[str, Any]) -> None:
    """Prints a manifest's counts."""
    buckets = ", ".join(f"{n} of {size}" for size, n in manifest["buckets"].items() if n)
    print(f"kept {manifest['kept']} of {manifest['seen']} images ({buckets})")
    for reason, count in manifest["rejected"].items():
        print(f"rejected {count}: {_decided(reason)}")
    if manifest["enlarged"]:
        logger.warning(
            "%d of %d images are smaller than the buckets of %s, so training at this size enlarges "
            "them: train at a lower resolution, or skip them with --data.min-side",
            manifest["enlarged"],
            manifest["kept"],
            next(iter(manifest["buckets"])),
        )
    if manifest["without_caption"]:
        logger.warning(
            "%d of %d images have no caption, so training uses an empty prompt for them: put the "
            "caption of a.jpg into a.txt, or into an entry named caption of a.json",
            manifest["without_caption"],
            manifest["kept"],
        )


def _decided(reason: str) -> str:
    """A reason to reject, with the option that decides over it."""
    option = DECIDING_OPTIONS.get(reason)
    return reason if option is None else f"{reason} ({option})"


def _template(folder: Path) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=NAME, split="train", filetype_suffix="array_record"
    )


def _write_shards(
    folder: Path, records: Iterable[tuple[Record, Size]], shards: int, embedding_size: int
) -> list[ShardContents]:
    """Writes record i to shard i mod `shards`."""
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(ShardWriter(shard_path(folder, i, shards), embedding_size))
            for i in range(shards)
        ]
        for i, (record, size) in enumerate(records):
            writers[i % shards].write(record, size)
    return [writer.contents for writer in writers]
