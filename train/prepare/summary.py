"""Prints the outcome of a preparation: complete, or what remains to be done."""

from train.prepare.output import Output


def summarize(output: Output) -> None:
    """Finishes the output if every shard is done, and prints the counts."""
    manifest = output.finish()
    if manifest is None:
        print(f"{len(output.missing())} of {output.shards} shards still to be done by other jobs")
        return
    print(f"kept {manifest['kept']} of {manifest['seen']} images")
    for reason, count in manifest["rejected"].items():
        print(f"rejected {count}: {reason}")
