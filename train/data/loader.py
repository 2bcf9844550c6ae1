"""Prefetches batches with threads while the devices compute."""

from collections.abc import Iterator, Sequence
from typing import Any

import grain

from train.data.batches import Batch, Batches


class Loader:
    """An endless iterator of (step, `Batches.batch(step)`) from a given step.

    grain's threads read the examples of the next steps. To resume, create a loader that starts at
    the step. Errors of `Batches.batch` are raised by `next`.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        start_step: int = 0,
        rows: slice | Sequence[int] = slice(None),
        threads: int = 8,
    ):
        """Args:
        start_step: no step after it may have another batch size.
        rows: this process's rows.
        threads: number of threads that read examples.
        """
        self.step = start_step
        self._batches = batches
        self._rows = batches.rows(rows, start_step)
        source = grain.MapDataset.source(_Examples(batches, self._rows, start_step))
        # Threads suffice, since decoding releases the GIL. Two batches are prefetched.
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * len(self._rows))
        self._examples = iter(source.to_iter_dataset(options))

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        return self

    def __next__(self) -> tuple[int, Batch]:
        examples = [next(self._examples) for _ in self._rows]
        step, self.step = self.step, self.step + 1
        return step, self._batches.collate(examples)

    def close(self) -> None:
        """Stops the threads."""
        self._examples.close()


class _Examples:
    """A grain source of a process's examples from a step on."""

    def __init__(self, batches: Batches, rows: Sequence[int], start_step: int):
        self._batches = batches
        self._rows = rows
        self._start_step = start_step

    def __len__(self) -> int:
        return 2**48  # grain requires a length

    def __getitem__(self, i: int) -> dict[str, Any]:
        step, place = divmod(int(i), len(self._rows))
        return self._batches.example(self._start_step + step, self._rows[place])
