"""Prints the outcome of a preparation: complete, or what remains to be done."""

from train.data.writing import print_outcome
from train.prepare.output import Output


def summarize(output: Output) -> None:
    """Finishes the output if every shard is done, and prints the counts."""
    manifest = output.finish()
    if manifest is None:
        print(f"{len(output.missing())} of {output.shards} shards still to be done by other jobs")
        return
    print_outcome(manifest)
