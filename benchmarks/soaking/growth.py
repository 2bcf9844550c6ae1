"""Growth: whether a process holds more at the end of a soak than after its warm-up."""

import dataclasses
import statistics
from collections.abc import Sequence

from benchmarks.soaking.server import Sample

# The first tenth is the warm-up: the second is compared with the last.
PARTS = 10


@dataclasses.dataclass(frozen=True)
class Allowance:
    """By how much the median of the last tenth may exceed that of the second.

    Attributes:
      memory: in bytes; the allocator keeps what the largest photos took, now more and now less.
      threads: some of a pool, whose threads are made when they are first needed.
      files: connections that are open at the moment of a sample.
    """

    memory: int = 96 * 2**20
    threads: int = 4
    files: int = 8


@dataclasses.dataclass(frozen=True)
class Growth:
    """Medians of the second tenth of a soak, and of the last.

    Attributes:
      before, after: by the names of a `Sample`'s numbers.
      excessive: what has grown by more than its allowance.
    """

    before: dict[str, float]
    after: dict[str, float]
    excessive: tuple[str, ...]


def grown(samples: Sequence[Sample], allowance: Allowance = Allowance()) -> Growth:
    """Judges the samples of a soak, which are in the order of their times.

    With fewer samples than tenths the first is compared with the last.
    """
    part = max(1, len(samples) // PARTS)
    early = samples[:1] if len(samples) < PARTS else samples[part : 2 * part]
    before, after = _medians(early), _medians(samples[-part:])
    allowed = dataclasses.asdict(allowance)
    excessive = tuple(name for name, most in allowed.items() if after[name] > before[name] + most)
    return Growth(before, after, excessive)


def _medians(samples: Sequence[Sample]) -> dict[str, float]:
    names = [field.name for field in dataclasses.fields(Allowance)]
    return {
        name: float(statistics.median(getattr(sample, name) for sample in samples))
        for name in names
    }
