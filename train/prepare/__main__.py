"""`python -m train.prepare --input DIR --output DIR --face-pack NAME_OR_DIR --workers N`.

Pictures from the web, or a folder's, to records: each is decoded and turned upright, its one face
is found and recognized by insightface, and what training could not use is left out and counted.
"""

import dataclasses
from pathlib import Path

import tyro

from instantid_jax.cli.entry import entry
from instantid_jax.errors import InputError
from train.prepare import workers
from train.prepare.inputs import find_shards
from train.prepare.output import Output
from train.prepare.record_settings import RecordSettings, plan
from train.prepare.summary import summarize


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is prepared, where, and by how many.

    Attributes:
      input: img2dataset's output, parquet files with pictures, or a folder of pictures.
      output: a new folder, or one that an interrupted run left: what is missing is made.
      workers: processes on this machine.
      shard: of an array of jobs, this one's number, from 0; each does every `of`-th input shard.
      of: how many jobs there are.
      settings: how pictures become records.
    """

    input: Path
    output: Path
    workers: int = 1
    shard: int = 0
    of: int = 1
    settings: tyro.conf.OmitArgPrefixes[RecordSettings] = RecordSettings()

    def __post_init__(self):
        if self.workers < 1:
            raise InputError(f"--workers {self.workers}: expected 1 or more")
        if not 0 <= self.shard < self.of:
            raise InputError(f"--shard {self.shard} --of {self.of}: expected 0 <= shard < of")


def main() -> None:
    with entry("prepare"):
        prepare(tyro.cli(Options, prog="python -m train.prepare", description=__doc__))


def prepare(options: Options) -> None:
    """Makes what is missing of the output, and says what came of it."""
    shards = find_shards(options.input)
    output = Output.open(options.output, plan(options.settings, shards))
    mine = [number for number in output.missing() if number % options.of == options.shard]
    workers.run(options.settings, shards, output, mine, options.workers)
    summarize(output)


if __name__ == "__main__":
    main()
