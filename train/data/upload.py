"""`python -m train.data.upload FOLDER ADDRESS`: copies datasets to an object store.

Every file is read back and compared. Rerunning the command copies what is missing or differs.
"""

from collections.abc import Sequence
from pathlib import Path

from instantid_jax.atomic import is_hidden
from instantid_jax.cli.entry import entry
from instantid_jax.errors import InputError
from instantid_jax.paths import is_address, utf8_path
from train.data.folder import INFO
from train.remote.checksums import SUMS, file_sha256, sums_text
from train.remote.store import Store


def upload(folder: Path, address: str) -> None:
    """Copies datasets, with their cached latents.

    Args:
      folder: output of `python -m train.data.build` or `python -m train.prepare`.
      address: where to, such as s3://bucket/faces.
    Raises:
      InputError: if a file cannot be copied, or differs in the store afterwards.
    """
    from tqdm import tqdm

    if not is_address(address):
        raise InputError(f"{address} is not an address: expected one such as s3://bucket/faces")
    paths = [path for path in folder.rglob("*") if path.is_file() and not is_hidden(path, folder)]
    if not any(path.name == INFO for path in paths):
        raise InputError(f"{folder} has no dataset: expected the output of train.data.build")
    store = Store(address)
    there = store.files()
    sums: dict[str, str] = {}
    # Metadata make the copy a dataset, so they come last.
    for path in tqdm(sorted(paths, key=lambda p: (p.name == INFO, p)), unit=" files", disable=None):
        name = path.relative_to(folder).as_posix()
        if name == SUMS:
            continue
        sums[name] = file_sha256(path)
        if path.name == INFO:
            store.write(SUMS, sums_text(sums).encode())
        store.put_verified(path, name, sums[name], there.get(name))
    store.write(SUMS, sums_text(sums).encode())


def main(args: Sequence[str] | None = None) -> None:
    """Runs the program. Exit status: 2 after bad input."""
    with entry("train.data.upload"):
        import tyro

        def run(folder: tyro.conf.Positional[Path], address: tyro.conf.Positional[str]) -> None:
            upload(utf8_path(folder), address)

        run.__doc__ = upload.__doc__
        tyro.cli(run, args=args, prog="python -m train.data.upload")


if __name__ == "__main__":
    main()
