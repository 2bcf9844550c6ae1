"""The output of a preparation in an object store.

Each process writes a shard on its machine, uploads it and reads it back, and then uploads the notes
that mark it as done. Machines need not share a file system: what is done is read from the store.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from instantid_jax.cache import cache_folder
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json
from instantid_jax.paths import is_address
from train.data.folder import INFO
from train.data.writing import MANIFEST, ShardContents, shard_path
from train.prepare.output import PLAN, SHARDS, SUMS, Output, check_same_plan
from train.remote.checksums import file_sha256, sha256
from train.remote.store import Store

_THREADS = 16


@dataclasses.dataclass(frozen=True)
class RemoteOutput(Output):
    """A dataset that is being written to an object store.

    Attributes:
      folder: holds shards on this machine until they are uploaded.
      address: the store's folder.
    """

    address: str

    @classmethod
    def open(cls, folder: str | Path, plan: Mapping[str, Any]) -> "RemoteOutput":
        """Starts an output in a store, or reopens one with the same plan.

        Args:
          folder: the address.
        Raises:
          InputError: if it has another plan, or contains other files.
        """
        store = Store(str(folder))
        # JSON turns tuples into lists.
        wanted = json.loads(json.dumps(plan))
        started = PLAN in store.files()
        if started:
            check_same_plan(json.loads(store.read(PLAN)), wanted, store.address)
        elif store.files():
            raise InputError(f"--output {folder} contains other files: pass a new address")
        here = cache_folder() / "prepare" / sha256(store.address.encode())[:32]
        if (here / PLAN).exists() and read_json(here / PLAN) != wanted:
            # What another plan left; the store knows nothing of it any more.
            shutil.rmtree(here)
        output = cls(**vars(Output.open(here, plan)), address=store.address)
        if not started:
            store.put(here / PLAN, PLAN)
            # Another machine may have started at the same time.
            check_same_plan(json.loads(store.read(PLAN)), wanted, store.address)
        return output

    @property
    def store(self) -> Store:
        return Store(self.address)

    def is_done(self, shard: int) -> bool:
        """Whether a shard is in the store; uploads it if it is complete on this machine."""
        try:
            self.store.read(_note(shard, "json"))
        except FileNotFoundError:
            if not super().is_done(shard):
                return False
            self._upload(shard)
        return True

    def missing(self) -> list[int]:
        done = self.store.files(SHARDS)
        return [shard for shard in range(self.shards) if _note(shard, "json") not in done]

    def finish_shard(
        self,
        shard: int,
        records: Path,
        contents: ShardContents,
        summary: Mapping[str, Any],
        scratch: Path,
    ) -> None:
        """Moves a written shard into the dataset, and uploads it."""
        super().finish_shard(shard, records, contents, summary, scratch)
        self._upload(shard)

    def finish(self) -> dict[str, Any] | None:
        """As `Output.finish`, from the notes of all machines; uploads what it writes."""
        notes = [_note(shard, kind) for shard in range(self.shards) for kind in ("npz", "json")]
        files = self.store.files(SHARDS)
        if not files.keys() >= set(notes):
            return None
        absent = [name for name in notes if not (self.folder / name).exists()]
        with ThreadPoolExecutor(_THREADS) as threads:
            get = self.store.get
            for _ in threads.map(lambda n: get(n, self.folder / n, files[n].size), absent):
                pass
        try:
            manifest = super().finish()
        except InputError:
            # So that other settings can be tried in the same place.
            self.store.remove(list(self.store.files()))
            raise
        shards = {shard_path(self.dataset, shard, self.shards) for shard in range(self.shards)}
        paths = [path for path in self.dataset.iterdir() if path not in shards]
        paths += [self.folder / MANIFEST, self.folder / SUMS]
        # It makes the folder a dataset.
        for path in sorted(paths, key=lambda path: (path.name == INFO, path)):
            self._put(path, file_sha256(path))
        return manifest

    def _upload(self, shard: int) -> None:
        records = shard_path(self.dataset, shard, self.shards)
        note = self.folder / _note(shard, "json")
        self._put(records, read_json(note)["sha256"])
        for path in (note.with_suffix(".npz"), note):
            self._put(path, file_sha256(path))
        records.unlink()

    def _put(self, path: Path, digest: str) -> None:
        self.store.put_verified(path, path.relative_to(self.folder).as_posix(), digest)


def open_output(output: str | Path, plan: Mapping[str, Any]) -> Output:
    """Opens the output of a preparation, a folder or an address.

    Raises:
      InputError: if it has another plan, or contains other files.
    """
    return (RemoteOutput if is_address(output) else Output).open(output, plan)


def _note(shard: int, kind: str) -> str:
    return f"{SHARDS}/{shard:05}.{kind}"
