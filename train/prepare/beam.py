"""`python -m train.prepare.beam --input DIR --output DIR ...`: `train.prepare` on Apache Beam.

Other options are passed on to Beam: `--runner DirectRunner --direct_num_workers 4
--direct_running_mode multi_processing` on this machine, or those of Flink, Spark or Dataflow. All
workers must see input, output and face pack under the same paths. Needs
`pip install -e '.[train,beam]'`.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    import apache_beam as beam
except ModuleNotFoundError:
    if __name__ != "__main__":
        raise
    message = "train.prepare.beam: error: apache-beam is not installed: pip install -e '.[beam]'"
    print(message, file=sys.stderr)
    sys.exit(2)
import tyro
from apache_beam.options.pipeline_options import PipelineOptions

from instantid_jax.cli.entry import entry
from instantid_jax.face.analysis import FaceAnalyzer
from train.prepare.inputs import InputShard, find_shards
from train.prepare.output import Output
from train.prepare.record_settings import RecordSettings, plan
from train.prepare.remote_output import open_output
from train.prepare.shard import prepare_shard
from train.prepare.summary import summarize


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options.

    Attributes:
      input: output of img2dataset, parquet files of images, or a folder of images.
      output: a new folder, or the folder of an interrupted run to resume; or such an address, as
        s3://bucket/faces.
      settings: face pack and filters.
    """

    input: Path
    output: str
    settings: tyro.conf.OmitArgPrefixes[RecordSettings] = RecordSettings()


class PrepareShard(beam.DoFn):
    """Prepares the shards whose numbers it receives, in the output folder."""

    def __init__(self, settings: RecordSettings, shards: Sequence[InputShard], output: Output):
        self._settings, self._shards, self._output = settings, shards, output
        self._analyzer: FaceAnalyzer | None = None

    def setup(self) -> None:
        self._analyzer = self._settings.analyzer()

    def process(self, number: int) -> None:
        assert self._analyzer is not None  # Beam calls `setup` first
        prepare_shard(number, self._shards[number], self._settings, self._output, self._analyzer)


def prepare(options: Options, beam_options: Sequence[str]) -> None:
    """Processes the missing shards on a Beam runner, and prints a summary."""
    shards = find_shards(options.input)
    output = open_output(options.output, plan(options.settings, shards))
    with beam.Pipeline(options=PipelineOptions(list(beam_options))) as pipeline:
        _ = (
            pipeline
            | beam.Create(output.missing())
            # Without a reshuffle, a runner may give all shards to one worker.
            | beam.Reshuffle()
            | beam.ParDo(PrepareShard(options.settings, shards, output))
        )
    summarize(output)


def main() -> None:
    with entry("train.prepare.beam"):
        options, beam_options = tyro.cli(
            Options,
            prog="python -m train.prepare.beam",
            description=__doc__.partition("\n\n")[2],
            return_unknown_args=True,
        )
        prepare(options, beam_options)


if __name__ == "__main__":
    main()
