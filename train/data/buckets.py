"""Aspect-ratio buckets: the picture sizes of training, and which one each batch has."""

import bisect
import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

# (height, width)
Size = tuple[int, int]

# SDXL's sizes of about a megapixel with sides at most 1.5 to 1 (Podell et al. 2023, appendix I).
_AT_1024 = ((1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216))
# The VAE halves a picture three times and the UNet twice.
MULTIPLE = 32


def aspect_buckets(resolution: int) -> tuple[Size, ...]:
    """At most five sizes of about `resolution` squared pixels, sides multiples of 32.

    They are SDXL's at 1024; at low resolutions some coincide, and each is given once.
    """
    scaled = (
        tuple(max(MULTIPLE, round(side * resolution / 1024 / MULTIPLE) * MULTIPLE) for side in size)
        for size in _AT_1024
    )
    return tuple(dict.fromkeys((height, width) for height, width in scaled))


def nearest_buckets(sizes: np.ndarray, buckets: Sequence[Size]) -> np.ndarray:
    """The bucket of each picture: the one whose aspect ratio is nearest by its logarithm.

    Args:
      sizes: [n, 2], heights and widths.
    Returns:
      [n] int8, places in `buckets`; of two equally near, the first.
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


class Interleave:
    """Which bucket the batch of each step has, and which of the bucket's batches it is.

    An epoch brings each bucket as many batches as its examples fill; what is left over of a batch
    counts towards the next epoch, so over time the shares are exact. The batches of an epoch come
    in an order drawn from (seed, epoch). Epoch and place follow from the step, so nothing is
    remembered between steps.
    """

    def __init__(self, examples: Sequence[Fraction | int], batch_size: int, seed: int):
        """`examples` is how many examples of each bucket an epoch has; not all zero."""
        self._rates = [Fraction(count) / batch_size for count in examples]
        self._seed = seed
        self._epoch_order = functools.lru_cache(maxsize=4)(self._order)

    def place(self, step: int) -> tuple[int, int]:
        """(bucket, how many batches of this bucket came before)."""
        epoch = self.epoch(step)
        before = self._batches_before(epoch)
        order, rank = self._epoch_order(epoch)
        bucket = int(order[step - sum(before)])
        return bucket, before[bucket] + int(rank[step - sum(before)])

    def epoch(self, step: int) -> int:
        """The epoch a step is in, from 0."""
        total = sum(self._rates)
        # Rounding down loses less than one batch a bucket.
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
        """Each place's bucket, and how many of the same came before it in the epoch."""
        before, after = self._batches_before(epoch), self._batches_before(epoch + 1)
        counts = [last - first for first, last in zip(before, after, strict=True)]
        order = np.repeat(np.arange(len(counts), dtype=np.int8), counts)
        # The last number tells these draws from those of examples.
        np.random.default_rng([self._seed, epoch, 1]).shuffle(order)
        rank = np.zeros(len(order), np.int32)
        for bucket, count in enumerate(counts):
            rank[order == bucket] = np.arange(count)
        return order, rank
