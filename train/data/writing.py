"""Writes a dataset: ArrayRecord shards that TFDS reads, an index, and a manifest."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

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
        raise InputError(f"{shards} shards were asked for: expected 1 up")
    try:
        with new_folder(output) as temporary:
            folder = temporary / NAME / VERSION
            folder.mkdir(parents=True)
            index = _write_shards(folder, records, shards, features(embedding_size))
            rejected = dict(rejected or {})
            kept = len(index["face_share"])
            if not kept:
                told = ", ".join(f"{n} {reason}" for reason, n in rejected.items()) or "none seen"
                raise InputError(f"no picture could be used ({told}): nothing is written")
            index["bucket"] = nearest_buckets(index["image_size"], buckets)
            np.savez(folder / INDEX, **index, buckets=np.array(buckets, np.int32))
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
        raise InputError(f"{error}: name a new one for the dataset") from error
    return manifest


def _write_shards(
    folder: Path,
    records: Iterable[tuple[Record, Size]],
    shards: int,
    feature: tfds.features.FeaturesDict,
) -> dict[str, np.ndarray]:
    """Writes the shards and TFDS's metadata; returns the index, in the order of reading."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=NAME, split="train", filetype_suffix="array_record"
    )
    paths = [template.sharded_filepath(shard_index=i, num_shards=shards) for i in range(shards)]
    sizes: list[list[Size]] = [[] for _ in paths]
    shares: list[list[float]] = [[] for _ in paths]
    hashes = [hashlib.sha256() for _ in paths]
    written = 0
    with contextlib.ExitStack() as stack:
        writers = [ArrayRecordWriter(str(path), _WRITER_OPTIONS) for path in paths]
        for writer in writers:
            stack.callback(writer.close)
        for i, (record, size) in enumerate(records):
            data = feature.serialize_example(feature.encode_example(record.encode()))
            shard = i % shards
            writers[shard].write(data)
            sizes[shard].append(size)
            shares[shard].append(face_share(record.bbox, size))
            hashes[shard].update(hashlib.sha256(data).digest())
            written += len(data)
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=[len(shard) for shard in sizes],
        num_bytes=written,
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=feature,
        split_infos=[split],
        version=VERSION,
        check_data=False,  # the check reads through tensorflow
        description="Pictures with one measured face each, for training InstantID.",
    )
    return {
        "image_size": np.array([size for shard in sizes for size in shard], np.int32).reshape(
            -1, 2
        ),
        "face_share": np.array([share for shard in shares for share in shard], np.float32),
        "fingerprint": np.array(picture_hash(b"".join(h.digest() for h in hashes))),
    }
