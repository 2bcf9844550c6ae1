"""The global batch size of each step, and how many examples precede it."""

import bisect
import dataclasses
import itertools
from typing import Self


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """The history of a run's global batch size.

    Attributes:
      changes: first step and size of each size, in order; the first is from step 0.
    """

    changes: tuple[tuple[int, int], ...]

    def __post_init__(self):
        steps = [step for step, _ in self.changes]
        if steps[:1] != [0] or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError(f"batch sizes {self.changes}: expected ascending steps from 0")

    @classmethod
    def constant(cls, size: int) -> Self:
        return cls(((0, size),))

    def changed(self, step: int, size: int) -> Self:
        """With another size from a step on, which must not be before the last change."""
        kept = tuple(each for each in self.changes if each[0] < step)
        return type(self)(kept if kept and kept[-1][1] == size else (*kept, (step, size)))

    def at(self, step: int) -> int:
        """The size of a step's batch."""
        return self.changes[self._number(step)][1]

    def examples_before(self, step: int) -> int:
        """The number of examples in all earlier steps."""
        number = self._number(step)
        ends = [first for first, _ in self.changes[1 : number + 1]] + [step]
        return sum(
            size * (end - first) for (first, size), end in zip(self.changes, ends, strict=False)
        )

    def steps_with(self, examples: int) -> int:
        """The number of steps that take `examples` examples, or more in the last."""
        ends = [first for first, _ in self.changes[1:]]
        taken = 0
        for (first, size), end in itertools.zip_longest(self.changes, ends):
            steps = first + max(-(-(examples - taken) // size), 0)
            if end is None or steps <= end:
                break
            taken += size * (end - first)
        return steps

    def _number(self, step: int) -> int:
        """The index of the change that a step follows."""
        return bisect.bisect_right(self.changes, step, key=lambda change: change[0]) - 1
