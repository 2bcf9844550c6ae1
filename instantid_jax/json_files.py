"""Reading and writing JSON settings files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instantid_jax.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """Reads one JSON object.

    Raises:
      InputError: if there is no such file, or it does not contain a JSON object.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): expected settings") from error
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON ({error}): make, copy or download it again"
        ) from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds a {type(settings).__name__}: expected a JSON object")
    return settings


def write_json(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes one JSON object, keys sorted."""
    path.write_text(json.dumps(dict(settings), indent=2, sort_keys=True) + "\n", encoding="utf-8")
