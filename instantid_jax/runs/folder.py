"""The layout of a run's folder."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths in the folder of a training run; nothing needs to exist."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def networks(self) -> Path:
        return self.path / "networks.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def superseded(self) -> Path:
        return self.path / "superseded"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending; excludes a save in progress."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(int(p.name) for p in self.checkpoints.iterdir() if p.name.isdecimal())


def is_run(path: Path) -> bool:
    """Whether a folder is a training run: it has networks.json, or finished checkpoints."""
    run = RunFolder(path)
    return run.networks.is_file() or bool(run.steps())
