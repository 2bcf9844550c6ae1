"""Checks of output paths, before anything is computed."""

import os
from pathlib import Path

from instantid_jax.errors import InputError


def check_png(output: Path) -> None:
    """Refuses a name under which no PNG can be written."""
    if output.suffix.lower() != ".png":
        raise InputError(f"--output {output}: expected a name ending in .png")
    if output.is_dir():
        raise InputError(f"--output {output} is a folder: give the name of a file to write")
    check_folder(output.parent)


def check_folder(folder: Path) -> None:
    """Refuses a folder, which need not exist, in which nothing can be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"--output: {existing} is a file, expected a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--output: {existing} cannot be written to, name another folder")
