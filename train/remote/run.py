"""The copy of a run in an object store: its checkpoints, and the files to resume and read them.

    checkpoints/<step>/     as in the run's folder
    complete/<step>.json    sizes and SHA-256 of a checkpoint's files; written last, removed first
    config.json, networks.json, metrics.jsonl, events.jsonl, *_run_id

Without `complete/`, it is the folder of a run.
"""

import json
import logging
import shutil
import tempfile
import uuid
from pathlib import Path, PurePosixPath

import jax
from jax.experimental import multihost_utils

from instantid_jax.errors import InputError
from instantid_jax.runs.folder import RunFolder
from train.config import CheckpointConfig
from train.loggers.run_id import store_id, stored_id
from train.remote.checksums import file_sha256
from train.remote.store import RemoteFile, Store

logger = logging.getLogger(__name__)

COMPLETE, CHECKPOINTS = "complete", "checkpoints"
# Which run the store holds.
SERVICE = "remote"
_FETCHING = ".fetching."


class RemoteRun:
    """A run's copy in an object store."""

    def __init__(self, run: RunFolder, settings: CheckpointConfig):
        """Raises InputError if the address cannot be opened, or holds another run."""
        self.run = run
        self._settings = settings
        assert settings.folder is not None
        self.store = Store(settings.folder)
        self._check_same_run()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        names = [PurePosixPath(name) for name in self.store.files(COMPLETE)]
        return sorted(int(n.stem) for n in names if n.stem.isdecimal() and n.suffix == ".json")

    def fetch(self, allow_older: bool) -> None:
        """If the store is ahead of the run's folder, fetches the newest checkpoint and the files.

        Every process of the run must call it; process 0 fetches.

        Args:
          allow_older: fetch all checkpoints that the folder lacks, because the newest may not be
            usable.
        Raises:
          InputError: if a file cannot be fetched, or differs from its checksum.
        """
        if jax.process_index() == 0:
            self._fetch(allow_older)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("train.remote: checkpoints fetched")

    def _fetch(self, allow_older: bool) -> None:
        for remnant in self.run.path.glob(f"{_FETCHING}*"):
            shutil.rmtree(remnant, ignore_errors=True)
        here, there = self.run.steps(), self.steps()
        if not there or (here and here[-1] >= there[-1]):
            return
        # The best checkpoint is known from those that are here.
        every = allow_older or self._settings.best is not None
        wanted = [step for step in there if step not in here] if every else there[-1:]
        # The checkpoints come last: with them, the folder counts as a run.
        for name, file in self._files().items():
            self.store.get(name, self.run.path / name, file.size)
        for step in wanted:
            self._fetch_step(step)
        logger.info("fetched checkpoint %d from %s", there[-1], self.store.address)

    def upload(self, step: int, folder: Path) -> None:
        """Copies a checkpoint and the run's files.

        Args:
          folder: the checkpoint's, which does not change meanwhile.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        contents = {}
        for path in paths:
            name = path.relative_to(folder).as_posix()
            self.store.put(path, f"{CHECKPOINTS}/{step}/{name}")
            contents[name] = [path.stat().st_size, file_sha256(path)]
        self.upload_files()
        self.store.write(f"{COMPLETE}/{step}.json", json.dumps(contents).encode())

    def upload_files(self) -> None:
        """Copies the run's files apart from its checkpoints."""
        with tempfile.TemporaryDirectory() as scratch:
            for path in _files(self.run):
                # It may grow.
                self.store.put(Path(shutil.copy(path, scratch)), path.name)

    def remove_after(self, step: int) -> None:
        """Removes checkpoints of later steps, which the run will take again."""
        for later in self.steps():
            if later > step:
                logger.warning(
                    "resuming from step %d: removing checkpoint %d of the copy", step, later
                )
                self._remove(later)

    def prune(self) -> None:
        """Removes checkpoints that the run's folder no longer has, except those to keep."""
        there = self.steps()
        kept = {*self.run.steps(), *there[-self._settings.keep :]}
        every = self._settings.keep_every
        for step in there:
            if step not in kept and not (every and step % every == 0):
                self._remove(step)

    def _check_same_run(self) -> None:
        ours = stored_id(self.run, SERVICE)
        try:
            theirs = self.store.read(f"{SERVICE}_run_id").decode().strip()
        except FileNotFoundError:
            theirs = None
        if theirs is not None and theirs != ours and (ours is not None or self.run.steps()):
            raise InputError(
                f"{self.store.address} holds the checkpoints of another run than {self.run.path}: "
                "pass another --checkpoints.folder, or the other run's --workdir"
            )
        self._id = theirs or ours or uuid.uuid4().hex

    def claim(self) -> None:
        """Notes in the folder and in the store that they belong together."""
        if stored_id(self.run, SERVICE) != self._id:
            store_id(self.run, SERVICE, self._id)
        self.store.write(f"{SERVICE}_run_id", f"{self._id}\n".encode())

    def _fetch_step(self, step: int) -> None:
        try:
            contents = json.loads(self.store.read(f"{COMPLETE}/{step}.json"))
            with tempfile.TemporaryDirectory(prefix=_FETCHING, dir=self.run.path) as scratch:
                folder = Path(scratch) / str(step)
                for name, (size, digest) in contents.items():
                    remote = f"{CHECKPOINTS}/{step}/{name}"
                    self.store.get(remote, folder / name, size)
                    if file_sha256(folder / name) != digest:
                        raise InputError(
                            f"{self.store.address}/{remote} is damaged: remove "
                            f"{COMPLETE}/{step}.json there to resume from an older checkpoint"
                        )
                self.run.checkpoints.mkdir(exist_ok=True)
                folder.rename(self.run.checkpoints / str(step))
        except FileNotFoundError as error:
            raise InputError(
                f"{self.store.address} lacks a file of checkpoint {step} ({error}): remove "
                f"{COMPLETE}/{step}.json there to resume from an older checkpoint"
            ) from error

    def _files(self) -> dict[str, RemoteFile]:
        """The copy's files apart from checkpoints."""
        return {name: file for name, file in self.store.files().items() if "/" not in name}

    def _remove(self, step: int) -> None:
        self.store.remove([f"{COMPLETE}/{step}.json"])
        folder = f"{CHECKPOINTS}/{step}"
        self.store.remove(list(self.store.files(folder)))


def _files(run: RunFolder) -> list[Path]:
    named = [run.config, run.networks, run.metrics, run.events, *run.path.glob("*_run_id")]
    return [path for path in named if path.is_file()]
