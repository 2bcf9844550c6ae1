"""Reading files of text that users write."""

from pathlib import Path

from instantid_jax.errors import InputError

# Bytes; the largest collections of styles have some hundred thousand.
LARGEST = 16 * 2**20


def read_utf8(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; line breaks stay.

    Raises:
      InputError: if it cannot be read, or is not such a text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > LARGEST:
        raise InputError(f"{path} has more than {LARGEST >> 20} MB: expected a file of text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start}): save it as text in UTF-8"
        ) from error
