"""Checks of output paths, before anything is computed."""

import os
import tempfile
from pathlib import Path

from instantid_jax.errors import InputError
from instantid_jax.image_files import format_of
from instantid_jax.pipeline.result import numbered


def check_image(output: Path, images: int = 1) -> None:
    """Refuses a name under which that many images cannot be written."""
    try:
        format_of(output)
    except InputError as error:
        raise InputError(f"--output {error}") from error
    for target in numbered(output, images):
        if target.is_dir():
            raise InputError(f"--output {target} is a folder: give the name of a file to write")
        if target.exists() and not target.is_file():
            raise InputError(f"--output {target} is not a file that can be replaced: name another")
    check_folder(output.parent)


def check_folder(folder: Path) -> None:
    """Refuses a folder, which need not exist, in which nothing can be written."""
    existing = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not existing.exists():
        raise InputError(f"--output: {existing} is a link to nothing, expected a folder")
    if not existing.is_dir():
        raise InputError(f"--output: {existing} is a file, expected a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--output: {existing} cannot be written to, name another folder")
    try:
        # Some file systems, such as /proc, say no only then.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"--output: {existing} cannot be written to ({error.strerror}), name another folder"
        ) from error
