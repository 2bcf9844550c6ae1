"""Atomic outputs: a file or folder appears complete or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from instantid_jax.paths import local_path


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path next to `path`; moves it onto `path` when the block succeeds.

    Creates parent folders. Leaves nothing behind when the block raises.

    Raises:
      InputError: if `path` is not on this machine.
    """
    path = local_path(path)
    with (
        _made(path.parent),
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder,
    ):
        # Writers choose the format by the suffix.
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder next to `path`; renames it to `path` when the block succeeds.

    Raises:
      FileExistsError: if `path` exists and is not an empty folder. Checked before the block;
        the rename checks it again.
      InputError: if `path` is not on this machine.
    """
    path = local_path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder")
    with _made(path.parent):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            # mkdtemp creates a private folder; give it the permissions of any new folder.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o777 & ~umask)
            yield temporary
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Creates a folder and its parents; removes those that it created if the block raises."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for each in missing:
            with contextlib.suppress(OSError):  # It may be in use.
                each.rmdir()
        raise


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether the name of a file, or of a folder between it and `folder`, starts with a dot."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
