"""Files of prompts: texts and JSON objects, one for the images of each prompt."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from instantid_jax.errors import InputError
from instantid_jax.paths import local_path
from instantid_jax.request.aliases import refuse_unknown
from instantid_jax.request.checks import check_text, shortened
from instantid_jax.request.request import PER_NET
from instantid_jax.request.settings import CHECKS
from instantid_jax.text_files import read_utf8

# Fields that name one file, and those that may name several.
FILE = ("pose", "image", "mask_image", "control_mask")
FILES = ("face", *PER_NET)
# Instead of a file for a ControlNet. A file of this name is ./none.
NONE = "none"
NAMES = ("prompt", "style", *FILES, *FILE, *CHECKS)
EXPECTED = 'expected a prompt, or an object such as {"prompt": "...", "seed": 1}'


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a file: the images of one prompt.

    Attributes:
      place: the file and the number of the line or entry, for messages.
      values: by the names of `NAMES`; settings are not checked yet.
    """

    place: str
    values: Mapping[str, Any]


def read_prompts(path: str | os.PathLike[str]) -> tuple[Line, ...]:
    """The prompts of a file.

    A .json file has an array and a .jsonl file lines of prompts or objects. Any other file has
    lines of text, without quotes; those that begin with { are objects, and those that begin with #
    are comments. Names of files are relative to the file's folder.

    Raises:
      InputError: if it is not such a file, has no prompts, or an unknown field.
    """
    path = local_path(path)
    text = read_utf8(path)
    suffix = path.suffix.lower()
    entries = _entries(path, text) if suffix == ".json" else _lines(path, text, suffix == ".jsonl")
    lines = tuple(Line(place, _values(place, value, path.parent)) for place, value in entries)
    if not lines:
        raise InputError(f"{path} has no prompts: {EXPECTED} in each line")
    return lines


def _entries(path: Path, text: str) -> Iterable[tuple[str, Any]]:
    values = _json(str(path), text)
    if not isinstance(values, list):
        raise InputError(f"{path} holds a {type(values).__name__}: expected an array of prompts")
    for i, value in enumerate(cast(list[Any], values)):
        yield f"{path} entry {i + 1}", value


def _lines(path: Path, text: str, all_json: bool) -> Iterable[tuple[str, Any]]:
    for i, line in enumerate(text.split("\n")):
        place, line = f"{path} line {i + 1}", line.strip()
        if line and (all_json or line.startswith("{")):
            yield place, _json(place, line)
        elif line and not line.startswith("#"):
            yield place, line


def _json(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise InputError(f"{place} is not valid JSON ({error}): {EXPECTED}") from error


def _values(place: str, value: Any, folder: Path) -> dict[str, Any]:
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise InputError(f"{place} holds {shortened(value)}: {EXPECTED}")
    given = cast(dict[str, Any], value)
    values = {name.replace("-", "_"): each for name, each in given.items()}
    try:
        refuse_unknown([name for name in values if name not in NAMES], NAMES)
        for name in FILE:
            if values.get(name) is not None:
                values[name] = _path(name, values[name], folder)
        for name in FILES:
            if name in values:
                several = values[name] if isinstance(values[name], list) else [values[name]]
                # Null is a ControlNet without an image, and no face.
                named = (e for e in cast(list[Any], several) if e is not None or name in PER_NET)
                values[name] = tuple(_path(name, each, folder) for each in named)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return values


def _path(name: str, value: Any, folder: Path) -> str:
    if name in PER_NET and (value is None or str(value).lower() == NONE):
        return NONE
    return str(folder / local_path(check_text(name, value)))
