"""Aspect-ratio buckets: the image sizes of training, and the bucket of each batch."""

import bisect
import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from instantid_jax.errors import InputError
from train.data.batch_sizes import BatchSizes

# (height, width)
Size = tuple[int, int]

# SDXL's sizes of about a megapixel with sides at most 1.5 to 1 (Podell et al. 2023, appendix I).
_AT_1024 = ((1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216))
# The VAE downsamples by 8, and the UNet by another 4.
MULTIPLE = 32


def aspect_buckets(resolution: int) -> tuple[Size, ...]:
    """SDXL's aspect-ratio buckets, scaled to about `resolution`**2 pixels and multiples of 32.

    Returns five sizes, or fewer at low resolutions, where some coincide.

    Raises:
      InputError: if it is less than the smallest size.
    """
    if resolution < MULTIPLE:
        raise InputError(f"resolution={resolution}: expected {MULTIPLE} or more")
    scaled = (
        tuple(max(MULTIPLE, round(side * resolution / 1024 / MULTIPLE) * MULTIPLE) for side in size)
        for size in _AT_1024
    )
    return tuple(dict.fromkeys((height, width) for height, width in scaled))


def nearest_buckets(sizes: np.ndarray, buckets: Sequence[Size]) -> np.ndarray:
    """The bucket of each image: the one with the nearest logarithm of the aspect ratio.

    Args:
      sizes: [n, 2], heights and widths.
    Returns:
      [n] int8, indices into `buckets`; the first of equally near ones.
    """
    ratio = np.log(sizes[:, 0] / sizes[:, 1])  # [n]
    wanted = np.log([height / width for height, width in buckets])  # [buckets]
    nearest = np.zeros(len(sizes), np.int8)
    best = np.full(len(sizes), np.inf)
    for i, bucket_ratio in enumerate(wanted):
        distance = np.abs(ratio - bucket_ratio)
        better = distance < best - 1e-9
        nearest[better] = i
        best[better] = distance[better]
    return nearest


def count_enlarged(sizes: np.ndarray, buckets: Sequence[Size]) -> int:
    """The number of images that do not cover their bucket.

    Args:
      sizes: [n, 2], heights and widths.
    """
    wanted = np.array(buckets)[nearest_buckets(sizes, buckets)]
    return int((sizes < wanted).any(1).sum())


class Interleave:
    """Maps each step to a bucket and to a place in that bucket's examples.

    An epoch has as many batches of a bucket as its examples fill. A partial batch carries over to
    the next epoch, so the shares are exact in the long run. The order of an epoch's batches is
    drawn from (seed, epoch). Everything is computed from the step, without state.

    Where the batch size changes, each bucket continues with its next example: what is left of the
    epoch is divided into batches of the new size, in an order of its own.
    """

    def __init__(self, examples: Sequence[Fraction | int], sizes: BatchSizes, seed: int):
        """`examples`: the number of examples per epoch of each bucket, not all zero."""
        self._parts: list[_Part] = []
        epoch, taken = 0, [0] * len(examples)
        for first, size in sizes.changes:
            if self._parts:
                epoch, taken = self._parts[-1].state(first)
            self._parts.append(_Part(examples, size, seed, first, epoch, taken))

    def place(self, step: int) -> tuple[int, int]:
        """Returns (bucket, number of examples of this bucket in earlier steps)."""
        return self._part(step).place(step)

    def epoch(self, step: int) -> int:
        """The epoch of a step, from 0."""
        return self._part(step).epoch(step)

    def _part(self, step: int) -> "_Part":
        return self._parts[bisect.bisect_right(self._parts, step, key=lambda p: p.first) - 1]


class _Part:
    """The steps of one batch size."""

    def __init__(
        self,
        examples: Sequence[Fraction | int],
        size: int,
        seed: int,
        first: int,
        epoch: int,
        taken: Sequence[int],
    ):
        """Args:
        first: the first step.
        epoch: the epoch of the first step.
        taken: number of examples of each bucket in earlier steps.
        """
        self.first = first
        self._examples = examples
        self._size = size
        self._seed = seed
        self._epoch = epoch
        self._taken = taken
        self._epoch_order = functools.lru_cache(maxsize=4)(self._order)

    def place(self, step: int) -> tuple[int, int]:
        epoch = self.epoch(step)
        before = self._batches_before(epoch)
        order, rank = self._epoch_order(epoch)
        at = step - self.first - sum(before)
        bucket = int(order[at])
        return bucket, self._taken[bucket] + self._size * (before[bucket] + int(rank[at]))

    def epoch(self, step: int) -> int:
        own = step - self.first
        total, taken = sum(self._examples), sum(self._taken)
        # Rounding down loses less than one batch per bucket.
        lowest = (own * self._size + taken) // total
        most = own + 1 + len(self._examples)
        highest = max((most * self._size + taken) // total, self._epoch) + 1
        return (
            bisect.bisect_right(
                range(highest + 1),
                own,
                lo=max(lowest, self._epoch),
                key=lambda epoch: sum(self._batches_before(epoch)),
            )
            - 1
        )

    def state(self, step: int) -> tuple[int, list[int]]:
        """A step's epoch, and the number of examples of each bucket in earlier steps."""
        epoch = self.epoch(step)
        before = self._batches_before(epoch)
        order = self._epoch_order(epoch)[0][: step - self.first - sum(before)]
        batches = [count + int((order == bucket).sum()) for bucket, count in enumerate(before)]
        return epoch, [
            taken + self._size * count for taken, count in zip(self._taken, batches, strict=True)
        ]

    def _batches_before(self, epoch: int) -> list[int]:
        """The number of batches of each bucket from the first step to an epoch."""
        if epoch <= self._epoch:
            return [0] * len(self._examples)
        return [
            (epoch * count - taken) // self._size
            for count, taken in zip(self._examples, self._taken, strict=True)
        ]

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The bucket of each batch of an epoch, and the number of earlier ones of that bucket."""
        before, after = self._batches_before(epoch), self._batches_before(epoch + 1)
        counts = [last - first for first, last in zip(before, after, strict=True)]
        order = np.repeat(np.arange(len(counts), dtype=np.int8), counts)
        # The last number separates this stream of draws from that of the examples.
        np.random.default_rng([self._seed, epoch, 1]).shuffle(order)
        rank = np.zeros(len(order), np.int32)
        for bucket, count in enumerate(counts):
            rank[order == bucket] = np.arange(count)
        return order, rank
