"""Progress of a job: what its listener heard, as text and pictures."""

import html
import threading
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from instantid_jax.serving.job import Job, Listener

# Seconds after which a job that is next has probably something to compile.
PATIENCE = 3.0


class Progress(Listener):
    """Keeps what a job's listener hears, for another thread to look at."""

    def __init__(self):
        self.changed = threading.Event()
        self.done = self.total = 0
        self.stepping: float | None = None
        self._previews: dict[int, np.ndarray] = {}

    def on_start(self) -> None:
        self.changed.set()

    def on_progress(self, done: int, total: int) -> None:
        if self.stepping is None:
            self.stepping = time.monotonic()
        self.done, self.total = done, total
        self.changed.set()

    def on_preview(self, image: int, pixels: np.ndarray) -> None:
        self._previews[image] = pixels
        self.changed.set()

    def previews(self, scale: int = 8) -> list[tuple[Image.Image, str]]:
        """The newest preview of each image, at its size, with a caption."""
        shown = []
        for i, pixels in sorted(self._previews.copy().items()):
            small = Image.fromarray(pixels)
            size = small.width * scale, small.height * scale
            shown.append((small.resize(size, Image.Resampling.BICUBIC), f"preview {i + 1}"))
        return shown

    def describe(self, job: Job, ahead: int, others: int = 0) -> str:
        """A line about a job that is not done.

        Args:
          ahead: jobs that start before it.
          others: jobs that run, which may leave no room for it.
        """
        if ahead:
            return f"Waiting: {ahead} request{'s' * (ahead > 1)} before this one"
        if not self.total:
            waited = time.monotonic() - job.submitted
            if waited > PATIENCE and others:
                return f"Waiting for room next to images that are being made ({waited:.0f} s)"
            if waited > PATIENCE:
                return f"Compiling for a new kind of image, which is done once ({waited:.0f} s)"
            return "Preparing"
        if self.done == self.total:
            return "Decoding"
        line = f"Step {self.done} of {self.total}"
        if self.stepping is not None and self.done > 1:
            seconds = time.monotonic() - self.stepping
            left = seconds / (self.done - 1) * (self.total - self.done)
            line += f" · {left:.0f} s left" if left >= 1 else ""
        return line


def status_html(line: str, kind: str = "info", share: float | None = None) -> str:
    """A line of status.

    Args:
      kind: info, done or error.
      share: how much of the work is finished, 0 to 1; None shows no bar.
    """
    bar = "" if share is None else f'<progress value="{share:.3f}" max="1"></progress>'
    # Screen readers read errors at once, and progress when they are idle.
    role = "alert" if kind == "error" else "status"
    return f'<div class="line {kind}" role="{role}">{bar}<span>{html.escape(line)}</span></div>'


def remarks_html(remarks: Sequence[str]) -> str:
    """Remarks, one below the other."""
    return "".join(f'<div class="line remark">{html.escape(remark)}</div>' for remark in remarks)
