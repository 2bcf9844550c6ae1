"""Atomic outputs: a file or folder appears complete or not at all."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from instantid_jax.errors import InputError
from instantid_jax.paths import local_path

# A part of the path is a file, a loop of links, or too long.
IMPOSSIBLE = (errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path next to `path`; moves it onto `path` when the block succeeds.

    Creates parent folders. Leaves nothing behind when the block raises.

    Raises:
      InputError: if `path` is not on this machine, or no file can have this name there.
    """
    path = local_path(path)
    if path.is_symlink():
        # The link stays, as with other programs.
        path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file that can be replaced: name another")
    with (
        _creating(path.parent),
        tempfile.TemporaryDirectory(prefix=_hidden_prefix(path), dir=path.parent) as folder,
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
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder")
    with _creating(path.parent):
        temporary = Path(tempfile.mkdtemp(prefix=_hidden_prefix(path), dir=path.parent))
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


def _hidden_prefix(path: Path) -> str:
    """The start of a temporary name, which is not too long where the name itself is not."""
    return f".{path.name[:32]}."


@contextlib.contextmanager
def _creating(folder: Path) -> Iterator[None]:
    """Creates a folder and its parents; removes those that it created if the block raises.

    Names the folder in the errors of a disk, which may name nothing.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        for each in (*reversed(missing), folder):
            each.mkdir(exist_ok=True)
    except OSError as error:
        if error.errno not in IMPOSSIBLE:
            raise
        raise InputError(
            f"{str(folder)[:200]} cannot be created ({error.strerror}): name another"
        ) from error
    try:
        yield
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(folder)
        for each in missing:
            with contextlib.suppress(OSError):  # It may be in use.
                each.rmdir()
        raise


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether the name of a file, or of a folder between it and `folder`, starts with a dot."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
