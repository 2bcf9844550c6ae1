"""How a run ends: the dataset whole, or what is left of it."""

from train.prepare.output import Output


def summarize(output: Output) -> None:
    """Writes what tells of the whole, if every shard is done, and prints the counts."""
    manifest = output.finish()
    if manifest is None:
        print(f"{len(output.missing())} of {output.shards} shards still to be done by other jobs")
        return
    print(f"kept {manifest['kept']} of {manifest['seen']} images")
    for reason, count in manifest["rejected"].items():
        print(f"rejected {count}: {reason}")
