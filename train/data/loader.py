"""Batches made ahead by threads or processes, while the devices work."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import grain
from absl import flags

from train.data.batches import Batch, Batches


class Loader:
    """Yields (step, batch) from a step on, without end; equal to `Batches.batch` of each step.

    grain makes what the next steps need: threads its examples, or other processes its batches.
    Decoding a JPEG releases Python's lock, so for large pictures threads are enough; small ones
    with cached latents are hardly more than Python, which makes some 600 a second, and more of
    them take processes.

    The position is the step: to resume, make a new loader that begins there. Errors of
    `Batches.batch` come out of `next`.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        start_step: int = 0,
        rows: slice | Sequence[int] = slice(None),
        threads: int = 8,
        processes: int = 0,
        prefetch: int = 2,
    ):
        """Args:
        rows: those of this process.
        threads: examples made at a time, without `processes`.
        processes: batches made at a time.
        prefetch: batches made ahead, by each of the processes if there are any.
        """
        self.step = start_step
        self._batches = batches
        self._rows = batches.rows(rows)
        self._whole = processes > 0
        if self._whole:
            # grain reads absl's flags, which nobody else here uses.
            flags.FLAGS.mark_as_parsed()
            source = grain.MapDataset.source(_Steps(batches, self._rows, start_step))
            dataset = source.to_iter_dataset(grain.ReadOptions(num_threads=0)).mp_prefetch(
                grain.MultiprocessingOptions(processes, per_worker_buffer_size=prefetch)
            )
        else:
            source = grain.MapDataset.source(_Examples(batches, self._rows, start_step))
            dataset = source.to_iter_dataset(
                grain.ReadOptions(threads, prefetch_buffer_size=prefetch * len(self._rows))
            )
        self._made = iter(dataset)

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        return self

    def __next__(self) -> tuple[int, Batch]:
        if self._whole:
            batch = next(self._made)
        else:
            batch = self._batches.collate(list(itertools.islice(self._made, len(self._rows))))
        step, self.step = self.step, self.step + 1
        return step, self._batches.counted(batch)

    def close(self) -> None:
        """Stops threads and processes."""
        self._made.close()
        # What is left of it complains when Python ends.
        del self._made


class _Examples:
    """A process's examples from a step on, as grain reads a source."""

    def __init__(self, batches: Batches, rows: Sequence[int], start_step: int):
        self._batches = batches
        self._rows = rows
        self._start_step = start_step

    def __len__(self) -> int:
        return 2**48  # grain wants a length

    def __getitem__(self, i: int) -> dict[str, Any]:
        step, place = divmod(int(i), len(self._rows))
        return self._batches.example(self._start_step + step, self._rows[place])


class _Steps(_Examples):
    """The same, a batch at a time."""

    def __getitem__(self, i: int) -> Batch:
        return self._batches.uncounted_batch(self._start_step + int(i), self._rows)
