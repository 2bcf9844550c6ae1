"""The output folder of a preparation, which any number of processes fill with shards in any order.

    plan.json                       settings that determine the bytes; a run with others is rejected
    instantid_faces/1.0.0/          the TFDS dataset
    shards/00042.npz, 00042.json    statistics of a shard; the .json marks it as done
    manifest.json                   total counts, once every shard is done
    SHA256SUMS                      checksums of the dataset's files, for sha256sum and rclone

Files are written atomically, and rewriting one gives the same bytes.
"""

import dataclasses
import json
import os
import shutil
import socket
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json, write_json
from instantid_jax.paths import utf8_path
from train.data.buckets import aspect_buckets
from train.data.writing import (
    MANIFEST,
    NAME,
    VERSION,
    ShardContents,
    no_usable_image,
    outcome,
    shard_path,
    write_metadata,
)
from train.remote.checksums import SUMS, file_sha256, sums_text

PLAN, SHARDS, SCRATCH = "plan.json", "shards", ".scratch"
# Entries of a plan that consist of hashes.
HASHED = ("face_pack", "recognizer", "input")


@dataclasses.dataclass(frozen=True)
class Output:
    """A dataset that is being written.

    Attributes:
      folder: the output folder.
      shards: total number of shards.
      embedding_size: length of an embedding.
      recognizer: SHA-256 of the recognizer.
    """

    folder: Path
    shards: int
    embedding_size: int
    recognizer: str

    @classmethod
    def open(cls, folder: str | Path, plan: Mapping[str, Any]) -> "Output":
        """Creates the folder, or reopens one with the same plan.

        Raises:
          InputError: if it has another plan, or contains other files.
        """
        folder = utf8_path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--output {folder} is a file: pass a new folder")
        output = cls(folder, plan["shards"], plan["embedding_size"], plan["recognizer"])
        path = folder / PLAN
        # A run that was killed early leaves folders but no plan.
        others = {p.name for p in folder.glob("*")} - {NAME, SHARDS, SCRATCH}
        if others and not path.exists():
            raise InputError(f"--output {folder} contains other files: pass a new folder")
        for made in (output.dataset, folder / SHARDS, folder / SCRATCH):
            made.mkdir(parents=True, exist_ok=True)
        output._clear_scratch()
        # JSON turns tuples into lists.
        wanted = json.loads(json.dumps(plan))
        with output.scratch() as scratch:
            write_json(scratch / PLAN, wanted)
            try:
                os.link(scratch / PLAN, path)
            except FileExistsError:
                check_same_plan(read_json(path), wanted, folder)
        return output

    @property
    def dataset(self) -> Path:
        return self.folder / NAME / VERSION

    def is_done(self, shard: int) -> bool:
        """Whether a shard's files are all there, and whole as far as their sizes say."""
        try:
            summary = read_json(self._shard_file(shard, "json"))
            self._contents(shard, summary)
            size = shard_path(self.dataset, shard, self.shards).stat().st_size
        except (InputError, EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile):
            return False
        # Earlier versions did not note it.
        return size == summary.get("size", size)

    def missing(self) -> list[int]:
        """Numbers of the shards that are not done."""
        return [shard for shard in range(self.shards) if not self.is_done(shard)]

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder of this process, on the output's file system."""
        # A later run on this machine removes the folders of dead processes by this name.
        with tempfile.TemporaryDirectory(
            prefix=f"{os.getpid()}.", suffix=f".{socket.gethostname()}", dir=self.folder / SCRATCH
        ) as folder:
            yield Path(folder)

    def finish_shard(
        self,
        shard: int,
        records: Path,
        contents: ShardContents,
        summary: Mapping[str, Any],
        scratch: Path,
    ) -> None:
        """Moves a written shard into the dataset.

        Args:
          records: the ArrayRecord file.
          summary: counts and names for the manifest.
          scratch: temporary folder of this process.
        """
        np.savez(scratch / "summary.npz", sizes=contents.sizes, face_share=contents.face_share)
        write_json(
            scratch / "summary.json",
            {
                **summary,
                "digest": contents.digest,
                "num_bytes": contents.num_bytes,
                "captioned": contents.captioned,
                "referenced": contents.referenced,
                "size": records.stat().st_size,
                "sha256": file_sha256(records),
            },
        )
        os.replace(records, shard_path(self.dataset, shard, self.shards))
        os.replace(scratch / "summary.npz", self._shard_file(shard, "npz"))
        os.replace(scratch / "summary.json", self._shard_file(shard, "json"))

    def finish(self) -> dict[str, Any] | None:
        """If every shard is done, writes metadata, manifest and checksums; returns the manifest.

        Raises:
          InputError: if no image was usable.
        """
        if self.missing():
            return None
        summaries = [read_json(self._shard_file(shard, "json")) for shard in range(self.shards)]
        contents = [self._contents(shard, each) for shard, each in enumerate(summaries)]
        rejected: Counter[str] = Counter()
        for each in summaries:
            rejected.update(each["rejected"])
        kept = sum(each["kept"] for each in summaries)
        if not kept:
            # So that other settings can be tried in the same place.
            shutil.rmtree(self.folder, ignore_errors=True)
            raise no_usable_image(dict(rejected.most_common()))
        with self.scratch() as scratch:
            # TFDS derives its metadata from file names, so symbolic links suffice.
            for shard in range(self.shards):
                path = shard_path(self.dataset, shard, self.shards)
                (scratch / path.name).symlink_to(path.absolute())
            index = write_metadata(
                scratch, contents, self.embedding_size, recognizer=self.recognizer
            )
            manifest = {
                **outcome(index, aspect_buckets(1024), dict(sorted(rejected.items()))),
                "plan": read_json(self.folder / PLAN),
                "shards": summaries,
            }
            write_json(scratch / MANIFEST, manifest)
            places = {
                path.name: (self.folder if path.name == MANIFEST else self.dataset) / path.name
                for path in scratch.iterdir()
                if not path.is_symlink()
            }
            sums = {place: file_sha256(scratch / name) for name, place in places.items()}
            for shard, each in enumerate(summaries):
                sums[shard_path(self.dataset, shard, self.shards)] = each["sha256"]
            named = {path.relative_to(self.folder).as_posix(): s for path, s in sums.items()}
            (scratch / SUMS).write_text(sums_text(named))
            places[SUMS] = self.folder / SUMS
            # dataset_info.json makes the folder a dataset, so it comes last.
            for name in sorted(places, key=lambda name: (name == "dataset_info.json", name)):
                os.replace(scratch / name, places[name])
        return manifest

    def _contents(self, shard: int, summary: Mapping[str, Any]) -> ShardContents:
        with np.load(self._shard_file(shard, "npz"), allow_pickle=False) as arrays:
            return ShardContents(
                arrays["sizes"],
                arrays["face_share"],
                summary["digest"],
                summary["num_bytes"],
                summary["captioned"],
                summary["referenced"],
            )

    def _shard_file(self, shard: int, kind: str) -> Path:
        return self.folder / SHARDS / f"{shard:05}.{kind}"

    def _clear_scratch(self) -> None:
        """Removes the temporary folders of killed processes of this machine."""
        for folder in (self.folder / SCRATCH).iterdir():
            process, _, host = folder.name.split(".", 2)
            if host == socket.gethostname() and not _lives(int(process)):
                shutil.rmtree(folder, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def check_same_plan(plan: Mapping[str, Any], wanted: Mapping[str, Any], folder: str | Path) -> None:
    """Raises InputError unless the plan of an output is the wanted one."""
    for name, value in wanted.items():
        if plan.get(name) != value:
            before, now = json.dumps(plan.get(name)), json.dumps(value)
            changed = f"{name} {before}, but this run has {now}"
            if name in HASHED:  # Hashes say nothing to a reader.
                changed = f"another {name.replace('_', ' ')}"
            raise InputError(
                f"--output {folder} was started with {changed}: use the same, or pass a new folder"
            )
