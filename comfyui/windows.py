"""`start_at` and `end_at` as ComfyUI's nodes mean them, as shares of the steps."""

from typing import NamedTuple

import numpy as np

# ComfyUI turns a percentage into a noise level through this many timesteps, whatever the sampler.
LAST_TIMESTEP = 999.0


class Window(NamedTuple):
    """The steps from `first` to before `last`, of `total`; none where these are equal."""

    first: int
    last: int
    total: int

    @property
    def is_empty(self) -> bool:
        return self.first >= self.last

    @property
    def start(self) -> float:
        """As `control_guidance_start`: the step i counts from start <= i / total."""
        return self.first / self.total

    @property
    def end(self) -> float:
        """As `control_guidance_end`: the step i counts until (i + 1) / total <= end."""
        return self.last / self.total


def window_of(start_at: float, end_at: float, timesteps: np.ndarray, left_out: int) -> Window:
    """Finds the steps between two noise levels.

    A step counts while its timestep is between (1 - end_at) and (1 - start_at) of the last one, so
    samplers with Karras sigmas have other steps in a window than those with evenly spaced ones.

    Args:
      start_at, end_at: in [0, 1].
      timesteps: [T] float32 of the base networks' steps, falling.
      left_out: how many steps follow for the refiner; they count if the last of T does.
    """
    total = len(timesteps) + left_out
    # No noise level is outside of a window that begins at 0, or ends at 1.
    highest = np.inf if start_at <= 0 else (1 - start_at) * LAST_TIMESTEP
    lowest = -np.inf if end_at >= 1 else (1 - end_at) * LAST_TIMESTEP
    first = int((timesteps > highest).sum())
    last = int((timesteps >= lowest).sum())
    return Window(first, total if last == len(timesteps) else last, total)
