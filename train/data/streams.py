"""The endless, shuffled stream of records of each bucket, mixed from the datasets by weight."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction

import grain
import numpy as np

from instantid_jax.errors import InputError
from train.data.config import DataConfig
from train.data.reading import FaceDataset

# (dataset, row in it)
Place = tuple[int, int]


def bucket_streams(
    config: DataConfig, datasets: Sequence[FaceDataset], seed: int
) -> tuple[list["grain.MapDataset[Place] | None"], list[Fraction]]:
    """One stream a bucket, and how many examples of it an epoch of all data has.

    Place i of a stream is a function of (seed, i). A stream brings every record of a dataset once
    before any of them a second time; datasets alternate in their weights' proportion.

    Returns:
      The streams, None for a bucket without records, and the buckets' counts of examples.
    """
    rows = [_rows_by_bucket(config, dataset) for dataset in datasets]
    lengths = [sum(len(bucket) for bucket in buckets) for buckets in rows]
    for share, length in zip(config.datasets, lengths, strict=True):
        if not length:
            raise InputError(
                f"{share.folder} has no picture with sides of min_side={config.min_side} or more"
            )
    weights = [Fraction(share.weight).limit_denominator(10**6) for share in config.datasets]
    # Of an epoch's examples, which are as many as there are records, each dataset gets its share.
    examples = [Fraction(sum(lengths)) * weight / sum(weights) for weight in weights]
    streams, counts = [], []
    for bucket in range(len(config.buckets)):
        parents, proportions = [], []
        for i, buckets in enumerate(rows):
            if len(buckets[bucket]):
                source = grain.MapDataset.source(_Places(i, buckets[bucket]))
                parents.append(source.shuffle(seed=_seed(seed, i, bucket)).repeat())
                proportions.append(examples[i] * len(buckets[bucket]) / lengths[i])
        counts.append(sum(proportions, Fraction(0)))
        if len(parents) > 1:
            floats = [float(proportion) for proportion in proportions]
            streams.append(grain.MapDataset.mix(parents, weights=floats))
        else:
            streams.append(parents[0] if parents else None)
    return streams, counts


class _Places:
    """The rows of one dataset in one bucket, as grain reads a source."""

    def __init__(self, dataset: int, rows: np.ndarray):
        self._dataset = dataset
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Place:
        return self._dataset, int(self._rows[i])


def _rows_by_bucket(config: DataConfig, dataset: FaceDataset) -> list[np.ndarray]:
    bucket = dataset.bucket(config.buckets)
    large = dataset.image_size.min(axis=1) >= config.min_side
    return [
        np.flatnonzero((bucket == i) & large).astype(np.uint32) for i in range(len(config.buckets))
    ]


def _seed(seed: int, dataset: int, bucket: int) -> int:
    # grain shuffles epoch k with seed + k, so neighbouring seeds would repeat each other's orders.
    digest = hashlib.sha256(f"{seed}/{dataset}/{bucket}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
