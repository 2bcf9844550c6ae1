"""Turns one input shard into one output shard; shared by all runners."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from instantid_jax.face.analysis import FaceAnalyzer
from train.data.writing import ShardContents, ShardWriter
from train.prepare.inputs import InputShard
from train.prepare.measuring import measured_records
from train.prepare.output import Output
from train.prepare.record_settings import RecordSettings


def prepare_shard(
    number: int,
    shard: InputShard,
    settings: RecordSettings,
    output: Output,
    analyzer: FaceAnalyzer,
    report: Callable[[int, int], None] = lambda seen, kept: None,
) -> None:
    """Writes output shard `number` from an input shard, unless it exists.

    The output is deterministic, so two processes may safely write the same shard.

    Args:
      report: called after each kept image with the numbers of images seen and kept so far.
    """
    if output.is_done(number):
        return
    with output.scratch() as scratch:
        path = scratch / "records"
        contents, rejected = write_shard(path, shard, settings, analyzer, report)
        kept = len(contents.sizes)
        summary = {
            "input": shard.name,
            "seen": kept + rejected.total(),
            "kept": kept,
            "rejected": dict(sorted(rejected.items())),
        }
        output.finish_shard(number, path, contents, summary, scratch)


def write_shard(
    path: Path,
    shard: InputShard,
    settings: RecordSettings,
    analyzer: FaceAnalyzer,
    report: Callable[[int, int], None] = lambda seen, kept: None,
) -> tuple[ShardContents, Counter[str]]:
    """Writes an ArrayRecord file from an input shard; returns its contents and the rejections.

    Args:
      report: as in `prepare_shard`.
    """
    rejected: Counter[str] = Counter()
    records = measured_records(
        shard.entries(rejected), analyzer, settings.filter, settings.caption_source, rejected
    )
    kept = 0
    with ShardWriter(path, analyzer.embedding_size) as writer:
        for record, size in records:
            writer.write(record, size)
            kept += 1
            report(kept + rejected.total(), kept)
    report(kept + rejected.total(), kept)
    return writer.contents, rejected
