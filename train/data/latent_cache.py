"""Cached latents: the VAE's posterior moments of a dataset's images, with the "center" crop.

They are stored with the dataset, in one folder per set of buckets: ArrayRecord shards, an index by
row, and a manifest that identifies the records and the VAE.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from instantid_jax.atomic import new_folder
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json, write_json
from instantid_jax.params import Params
from instantid_jax.runs.contents import checksums
from train.data.buckets import MULTIPLE, Size, aspect_buckets
from train.data.folder import LATENTS, open_folder
from train.data.reading import FaceDataset, one_line, read_arrays, read_record
from train.data.record import CorruptRecord

INDEX, MANIFEST = "index.npz", "manifest.json"
# Increment it when the files' layout, the crop or the VAE's input changes.
VERSION = 1
# Three bits more precise than bfloat16, with sufficient range: means are tens at most, and sampling
# clips log-variances to [-30, 20].
DTYPE = np.float16
# Random access reads whole groups, and moments are nearly incompressible.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_SHARD_RECORDS = 4096  # a gigabyte at 1024 x 1024 pixels


class EncodedImage(NamedTuple):
    """A cached crop.

    Attributes:
      moments: [H/8, W/8, 8] float16 for a crop of H x W; mean and log-variance, unscaled.
      crc32: checksum of the crop's pixels.
    """

    moments: np.ndarray
    crc32: np.uint32


def vae_fingerprint(vae: Params) -> str:
    """Hash of the bits of a VAE's encoder, independent of sharding.

    Args:
      vae: all of the VAE's parameters, float32.
    """
    encoder = {k: v for k, v in vae.items() if k.startswith(("encoder.", "quant_conv."))}
    return hashlib.sha256(json.dumps(checksums(encoder), sort_keys=True).encode()).hexdigest()


def cache_folder(dataset: str | Path, buckets: Sequence[Size]) -> Path:
    """The folder of a dataset's cached latents for these buckets; the dataset's is a path."""
    return Path(dataset) / LATENTS / "_".join(f"{height}x{width}" for height, width in buckets)


def write_latents(
    folder: str | Path,
    dataset: FaceDataset,
    buckets: Sequence[Size],
    vae: str,
    images: Iterable[tuple[int, EncodedImage]],
) -> dict[str, Any]:
    """Writes a dataset's cache atomically, streaming the images.

    Args:
      folder: the dataset's.
      vae: fingerprint of the VAE.
      images: (row, image) in any order; absent rows are marked as missing.
    Returns:
      The manifest.
    Raises:
      InputError: if the cache for these buckets exists, or `images` is empty.
    """
    place = np.full(len(dataset), -1, np.int64)
    crc32 = np.zeros(len(dataset), np.uint32)
    written = 0
    output = cache_folder(folder, buckets)
    try:
        with new_folder(output) as temporary:
            with contextlib.ExitStack() as shard:
                for row, image in images:
                    if written % _SHARD_RECORDS == 0:
                        shard.close()
                        path = _shard(temporary, written // _SHARD_RECORDS)
                        writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
                        shard.callback(writer.close)
                    data = io.BytesIO()
                    np.save(data, image.moments.astype(DTYPE), allow_pickle=False)
                    writer.write(data.getvalue())
                    place[row], crc32[row] = written, image.crc32
                    written += 1
            if not written:
                raise InputError(f"no usable image in {folder}: nothing is written")
            np.savez(temporary / INDEX, place=place, crc32=crc32)
            manifest = {
                "version": VERSION,
                "dataset": dataset.fingerprint,
                "vae": vae,
                "buckets": [list(size) for size in buckets],
                "crop": "center",
                "dtype": np.dtype(DTYPE).name,
                "shards": -(-written // _SHARD_RECORDS),
                "pictures": written,
                "missing": len(dataset) - written,
            }
            write_json(temporary / MANIFEST, manifest)
    except FileExistsError as error:
        raise InputError(f"{error}: delete it to recompute the latents") from error
    return manifest


class LatentCache:
    """Reads a dataset's cached latents by row."""

    def __init__(self, folder: str | Path, dataset: FaceDataset, buckets: Sequence[Size]):
        """Opens the cache.

        Args:
          folder: the dataset's.
        Raises:
          InputError: if the cache is missing for these buckets, incomplete, or was computed from
            other records.
        """
        place = open_folder(folder)
        self._path = cache_folder(place.path, buckets)
        self._command = _command(folder, buckets)
        if not (self._path / MANIFEST).is_file():
            raise InputError(
                f"{folder} has no cached latents for buckets {self._path.name}: {self._command}"
            )
        self._again = f"delete {self._path}, and {self._command}"
        manifest = read_json(self._path / MANIFEST)
        if manifest.get("version") != VERSION:
            raise InputError(
                f"{self._path} has version {manifest.get('version')}, but {VERSION} is expected: "
                f"{self._again}"
            )
        if manifest["dataset"] != dataset.fingerprint:
            raise InputError(
                f"{self._path} was computed from other records than {folder} has: {self._again}"
            )
        self._vae = manifest["vae"]
        index = read_arrays(self._path / INDEX, ("place", "crc32"), self._again)
        self._place, self._crc32 = index["place"], index["crc32"]
        shards = [_shard(self._path, i) for i in range(manifest["shards"])]
        full = (manifest["shards"] - 1) * _SHARD_RECORDS
        lengths = [_SHARD_RECORDS] * (len(shards) - 1) + [manifest["pictures"] - full]
        try:
            remote = place.remote_records(shards, lengths)
            self._source = ArrayRecordDataSource(shards) if remote is None else remote
            held = len(self._source)
        except InputError:
            raise
        # ArrayRecord raises bare exceptions, for example on a missing or truncated file.
        except Exception as error:
            raise InputError(
                f"{self._path} cannot be read ({one_line(error)}): copy it again, or {self._again}"
            ) from error
        if held != manifest["pictures"] or len(self._place) != len(dataset):
            raise InputError(f"{self._path} is incomplete: copy it again, or {self._again}")

    def check_vae(self, fingerprint: str) -> None:
        """Raises InputError unless the latents were computed with the VAE of this fingerprint."""
        if fingerprint != self._vae:
            raise InputError(
                f"{self._path} was computed with another VAE than the run's: use that VAE, or "
                f"{self._again}"
            )

    def __getitem__(self, row: int) -> EncodedImage:
        """Reads one row; thread-safe.

        Raises:
          CorruptRecord: if the row is missing or damaged.
          InputError: if the file cannot be read.
        """
        place = int(self._place[row])
        if place < 0:
            raise CorruptRecord("it was unusable when the latents were computed")
        moments = read_record(
            lambda: np.load(io.BytesIO(self._source[place]), allow_pickle=False), self._path
        )
        return EncodedImage(moments, self._crc32[row])


def _shard(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.array_record"


def _command(folder: str | Path, buckets: Sequence[Size]) -> str:
    """Instructions for computing the cache of these buckets."""
    side = buckets[0][0]
    near = range(max(side - MULTIPLE // 2, MULTIPLE), side + MULTIPLE // 2 + 1)
    fitting = [n for n in near if aspect_buckets(n) == tuple(buckets)]
    if fitting:
        flag = f"--resolution {min(fitting, key=lambda n: abs(n - side))}"
    else:
        flag = "--buckets " + " ".join(f"{height} {width}" for height, width in buckets)
    return f"run `python -m train.data.latents {folder} --sdxl MODEL {flag}` with the run's model"
