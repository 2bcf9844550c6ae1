"""Endless, shuffled streams of records, one per bucket, mixed from the datasets by weight."""

import functools
import threading
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
    """Makes one stream per bucket.

    Element i of a stream is a function of (seed, i). A stream visits every record of a dataset once
    before repeating any; datasets alternate in proportion to their weights.

    Returns:
      The streams (None for a bucket without records), and each bucket's number of examples per
      epoch.
    """
    rows = [_rows_by_bucket(config, dataset) for dataset in datasets]
    lengths = [sum(len(bucket) for bucket in buckets) for buckets in rows]
    for share, length in zip(config.datasets, lengths, strict=True):
        if not length:
            raise InputError(
                f"{share.folder} has no image with both sides at least min_side={config.min_side}"
            )
    weights = [Fraction(share.weight).limit_denominator(10**6) for share in config.datasets]
    # An epoch has as many examples as there are records, divided among datasets by weight.
    examples = [Fraction(sum(lengths)) * weight / sum(weights) for weight in weights]
    streams, counts = [], []
    for bucket in range(len(config.buckets)):
        parents, proportions = [], []
        for i, buckets in enumerate(rows):
            if len(buckets[bucket]):
                shuffled = _Shuffled(i, buckets[bucket], (seed, i, bucket))
                parents.append(grain.MapDataset.source(shuffled))
                proportions.append(examples[i] * len(buckets[bucket]) / lengths[i])
        counts.append(sum(proportions, Fraction(0)))
        if len(parents) > 1:
            floats = [float(proportion) for proportion in proportions]
            streams.append(grain.MapDataset.mix(parents, weights=floats))
        else:
            streams.append(parents[0] if parents else None)
    return streams, counts


class _Shuffled:
    """An endless sequence of a dataset's rows in one bucket, reshuffled every epoch.

    grain's own shuffle takes milliseconds per example for short sequences.
    """

    def __init__(self, dataset: int, rows: np.ndarray, seed: tuple[int, ...]):
        self._dataset = dataset
        self._rows = rows
        self._seed = seed
        self._lock = threading.Lock()
        # A batch may span two epochs.
        self._cached_order = functools.lru_cache(maxsize=2)(self._order)

    def __len__(self) -> int:
        return 2**48  # grain requires a length

    def __getitem__(self, i: int) -> Place:
        epoch, place = divmod(int(i), len(self._rows))
        with self._lock:
            order = self._cached_order(epoch)
        return self._dataset, int(order[place])

    def _order(self, epoch: int) -> np.ndarray:
        # The last number separates this stream of draws from those of examples and buckets.
        return np.random.default_rng([*self._seed, epoch, 2]).permutation(self._rows)


def _rows_by_bucket(config: DataConfig, dataset: FaceDataset) -> list[np.ndarray]:
    bucket = dataset.bucket(config.buckets)
    large = dataset.image_size.min(axis=1) >= config.min_side
    return [
        np.flatnonzero((bucket == i) & large).astype(np.uint32) for i in range(len(config.buckets))
    ]
