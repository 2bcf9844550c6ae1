"""Command-line options of the trainings on drawn pictures."""

import dataclasses
from pathlib import Path

from miniature.stage import Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Training settings.

    Attributes:
      workdir: the run's folder, for checkpoints and the result; a second call resumes the run.
      pictures: number of pictures to draw, a multiple of 50, 100 or 500.
      batch: pictures per batch.
      processes: number of drawing processes.
    """

    workdir: Path
    pictures: int
    batch: int
    processes: int = 2
    stage: Stage

    @property
    def data(self) -> str:
        """A description of the data; a resumed run must have the same."""
        return f"{self.pictures} pictures, {self.batch} a batch"
