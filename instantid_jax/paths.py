"""Paths of files on this machine."""

import os
import re
from pathlib import Path

from instantid_jax.errors import InputError

# Path() merges the slashes of gs://bucket. One letter is a drive of Windows.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:")
_STORE = re.compile(r"(s3|gs|az|abfs)://")
# Bytes of a path and of a part of it, on Linux; a file system may have less.
PATH_MAX, NAME_MAX = 4096, 255
# Characters of an address in a message; those with data in them have millions.
_SHOWN = 80


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether it is an address of an object store: s3://, gs://, az:// or abfs://."""
    return _STORE.match(os.fspath(path)) is not None


def local_path(path: str | os.PathLike[str]) -> Path:
    """The path of a file or folder on this machine; a leading ~ is the home folder.

    Raises:
      InputError: if it is an address such as gs://bucket/a.png, which Path() turns into a local
        folder `gs:`.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"a path cannot be a {type(path).__name__}: give text or a pathlib.Path")
    text = os.fspath(path)
    if not text:
        raise InputError("an empty path: name a file or folder")
    if _ADDRESS.match(text):
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise InputError(
            f"{shown} is an address: give a path on this machine, and copy files from or to the "
            "address yourself"
        )
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise InputError(f"{text!a}: no file can have this name") from error
    if b"\0" in encoded:
        raise InputError(f"{text!a}: no file can have this name")
    if len(encoded) >= PATH_MAX or max(map(len, encoded.split(b"/"))) > NAME_MAX:
        raise InputError(f"{text[:_SHOWN]}...: no file can have so long a name")
    if text == "~" or text.startswith("~/"):
        text = os.path.expanduser(text)
        if text.startswith("~"):
            raise InputError(f"{text}: no home folder is known; set HOME")
    return Path(text)


def utf8_path(path: str | os.PathLike[str]) -> Path:
    """The path of a file or folder on this machine, for libraries that take UTF-8 only.

    Raises:
      InputError: if it is not UTF-8.
    """
    path = local_path(path)
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{str(path)!a} is not UTF-8: rename the file or folder") from error
    return path
