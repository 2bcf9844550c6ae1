"""Aspect-ratio buckets: the image sizes of training, and the bucket of each batch."""

import bisect
import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from instantid_jax.errors import InputError

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
    """Maps each step to a bucket and to the number of the batch within that bucket.

    An epoch has as many batches of a bucket as its examples fill. A partial batch carries over to
    the next epoch, so the shares are exact in the long run. The order of an epoch's batches is
    drawn from (seed, epoch). Everything is computed from the step, without state.
    """

    def __init__(self, examples: Sequence[Fraction | int], batch_size: int, seed: int):
        """`examples`: the number of examples per epoch of each bucket, not all zero."""
        self._rates = [Fraction(count) / batch_size for count in examples]
        self._seed = seed
        self._epoch_order = functools.lru_cache(maxsize=4)(self._order)

    def place(self, step: int) -> tuple[int, int]:
        """Returns (bucket, number of earlier batches of this bucket)."""
        epoch = self.epoch(step)
        before = self._batches_before(epoch)
        order, rank = self._epoch_order(epoch)
        bucket = int(order[step - sum(before)])
        return bucket, before[bucket] + int(rank[step - sum(before)])

    def epoch(self, step: int) -> int:
        """The epoch of a step, from 0."""
        total = sum(self._rates)
        # Rounding down loses less than one batch per bucket.
        first, last = int(step / total), int((step + 1 + len(self._rates)) / total) + 1
        return (
            bisect.bisect_right(
                range(last + 1), step, lo=first, key=lambda epoch: sum(self._batches_before(epoch))
            )
            - 1
        )

    def _batches_before(self, epoch: int) -> list[int]:
        return [int(epoch * rate) for rate in self._rates]

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
