"""`python -m train.prepare --input DIR --output DIR --face-pack NAME_OR_DIR --workers N`.

Prepares training records from images of the web or a folder. It decodes each image, applies its
EXIF orientation, and detects and embeds its face with insightface. Images without exactly one
usable face are skipped and counted by reason.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from instantid_jax.cli.entry import entry
from instantid_jax.errors import InputError
from train.prepare import workers
from train.prepare.inputs import find_shards
from train.prepare.record_settings import RecordSettings, plan
from train.prepare.remote_output import open_output
from train.prepare.summary import summarize


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options.

    Attributes:
      input: output of img2dataset, parquet files of images, or a folder of images.
      output: a new folder, or the folder of an interrupted run to resume; or such an address, as
        s3://bucket/faces.
      workers: worker processes on this machine.
      shard: index of this job in a job array; it processes every `of`-th input shard.
      of: number of jobs in the array.
      settings: face pack and filters.
    """

    input: Path
    output: str
    workers: int = 1
    shard: int = 0
    of: int = 1
    settings: tyro.conf.OmitArgPrefixes[RecordSettings] = RecordSettings()

    def __post_init__(self):
        if self.workers < 1:
            raise InputError(f"--workers {self.workers}: expected 1 or more")
        if not 0 <= self.shard < self.of:
            raise InputError(f"--shard {self.shard} --of {self.of}: expected 0 <= shard < of")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the program. Exit status: 2 after bad input."""
    with entry("train.prepare"):
        _, _, description = __doc__.partition("\n\n")
        prepare(
            tyro.cli(Options, args=args, prog="python -m train.prepare", description=description)
        )


def prepare(options: Options) -> None:
    """Processes this job's missing shards, and prints a summary."""
    shards = find_shards(options.input)
    output = open_output(options.output, plan(options.settings, shards))
    mine = [number for number in output.missing() if number % options.of == options.shard]
    workers.run(options.settings, shards, output, mine, options.workers)
    summarize(output)


if __name__ == "__main__":
    main()
