"""`python -m train.prepare.beam --input DIR --output DIR ...`: the same on a runner of Apache Beam.

All options that are not ours go to Beam: `--runner DirectRunner --direct_num_workers 4
--direct_running_mode multi_processing` here, Flink's, Spark's or Dataflow's elsewhere. Workers must
see input, output and face pack under the same names. Needs `pip install -e '.[train,beam]'`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import tyro
from apache_beam.options.pipeline_options import PipelineOptions

from instantid_jax.cli.entry import entry
from instantid_jax.face.analysis import FaceAnalyzer
from train.prepare.inputs import InputShard, find_shards
from train.prepare.output import Output
from train.prepare.record_settings import RecordSettings, plan
from train.prepare.shard import prepare_shard
from train.prepare.summary import summarize


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is prepared, and where.

    Attributes:
      input: img2dataset's output, parquet files with pictures, or a folder of pictures.
      output: a new folder, or one that an interrupted run left: what is missing is made.
      settings: how pictures become records.
    """

    input: Path
    output: Path
    settings: tyro.conf.OmitArgPrefixes[RecordSettings] = RecordSettings()


class PrepareShard(beam.DoFn):
    """Takes numbers of shards; what it makes lies in the output folder."""

    def __init__(self, settings: RecordSettings, shards: Sequence[InputShard], output: Output):
        self._settings, self._shards, self._output = settings, shards, output
        self._analyzer: FaceAnalyzer | None = None

    def setup(self) -> None:
        self._analyzer = self._settings.analyzer()

    def process(self, number: int) -> None:
        assert self._analyzer is not None  # `setup` is called first
        prepare_shard(number, self._shards[number], self._settings, self._output, self._analyzer)


def prepare(options: Options, beam_options: Sequence[str]) -> None:
    """Makes what is missing of the output, and says what came of it."""
    shards = find_shards(options.input)
    output = Output.open(options.output, plan(options.settings, shards))
    with beam.Pipeline(options=PipelineOptions(list(beam_options))) as pipeline:
        _ = (
            pipeline
            | beam.Create(output.missing())
            # Else a runner may give all of them to one worker.
            | beam.Reshuffle()
            | beam.ParDo(PrepareShard(options.settings, shards, output))
        )
    summarize(output)


def main() -> None:
    with entry("prepare.beam"):
        options, beam_options = tyro.cli(
            Options,
            prog="python -m train.prepare.beam",
            description=__doc__,
            return_unknown_args=True,
        )
        prepare(options, beam_options)


if __name__ == "__main__":
    main()
