"""Checksums of a folder's files, in the format of sha256sum."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

SUMS = "SHA256SUMS"


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums_text(sums: Mapping[str, str]) -> str:
    """The lines of a file of checksums by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def sums_of(text: str) -> dict[str, str]:
    """The checksums by name of such a file."""
    lines = (line.split("  ", 1) for line in text.splitlines())
    return {line[1]: line[0] for line in lines if len(line) == 2}
