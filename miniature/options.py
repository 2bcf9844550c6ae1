"""What the programs that learn from drawn pictures are told on the command line."""

import dataclasses
from pathlib import Path

from miniature.stage import Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """What is trained, on what.

    Attributes:
      workdir: the run's folder, where the result comes to lie; a second call goes on.
      pictures: so many are drawn, a multiple of 50 or 100.
      batch: pictures in a batch.
      processes: how many draw.
    """

    workdir: Path
    pictures: int
    batch: int
    processes: int = 2
    stage: Stage

    @property
    def data(self) -> str:
        """What a run that goes on must have in common with its beginning."""
        return f"{self.pictures} pictures, {self.batch} a batch"
