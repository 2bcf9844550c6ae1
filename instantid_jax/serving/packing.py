"""Packing: which pictures share the next steps, by the measured time of each size of batch."""

import functools
from collections.abc import Mapping, Sequence


def pack(rows: Sequence[int], seconds: Mapping[int, float]) -> list[tuple[int, list[int]]]:
    """Batches that step every picture once, in the least time.

    A batch of a size takes as long if it is not full: five rows are quicker in batches of four and
    one than in one of eight where the time grows with the size, and slower where it does not.

    Args:
      rows: how many each picture has in the networks' batch, 1 or 2. One batch has both.
      seconds: that a step takes, by the number of rows of a batch.
    Returns:
      For each batch its number of rows, and the indices of its pictures.
    Raises:
      ValueError: if a picture fits no batch.
    """
    pairs = [i for i, count in enumerate(rows) if count == 2]
    singles = [i for i, count in enumerate(rows) if count == 1]
    if pairs and max(seconds, default=0) < 2:
        raise ValueError(f"pictures of two rows fit no batch of {sorted(seconds)}")
    sizes = tuple(sorted(seconds.items()))
    batches = []
    for size in _sizes(len(pairs), len(singles), sizes)[1]:
        taken = [pairs.pop(0) for _ in range(min(len(pairs), size // 2))]
        room = size - 2 * len(taken)
        taken += [singles.pop(0) for _ in range(min(len(singles), room))]
        batches.append((size, taken))
    return batches


def pack_seconds(rows: Sequence[int], seconds: Mapping[int, float]) -> float:
    """How long the batches of `pack` take."""
    return sum(seconds[size] for size, _ in pack(rows, seconds))


@functools.lru_cache(maxsize=4096)
def _sizes(
    pairs: int, singles: int, sizes: tuple[tuple[int, float], ...]
) -> tuple[float, tuple[int, ...]]:
    """The least time for these numbers of pictures, and the sizes of batches, filled by pairs."""
    if not pairs and not singles:
        return 0.0, ()
    found = []
    for size, seconds in sizes:
        taken = min(pairs, size // 2)
        rest, following = pairs - taken, max(0, singles - (size - 2 * taken))
        if (rest, following) == (pairs, singles):
            continue
        others, chosen = _sizes(rest, following, sizes)
        found.append((seconds + others, (size, *chosen)))
    # Fewer batches of the same time are better.
    return min(found, key=lambda each: (each[0], len(each[1])))
