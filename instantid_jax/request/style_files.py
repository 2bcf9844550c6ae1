"""Files of styles: sdxl_prompt_styler's JSON, and the styles.csv of AUTOMATIC1111's web UI."""

import collections
import csv
import io
import json
import logging
import os
from collections.abc import Iterable
from typing import Any, cast

from instantid_jax.errors import InputError
from instantid_jax.paths import local_path
from instantid_jax.request.checks import check_text
from instantid_jax.request.styles import STYLES, Style
from instantid_jax.text_files import read_utf8

logger = logging.getLogger(__name__)

NAME, PROMPT, NEGATIVE = "name", "prompt", "negative_prompt"
# What the web UI's first versions called the column.
OLD_PROMPT = "text"
EXPECTED = (
    'expected [{"name": ..., "prompt": ..., "negative_prompt": ...}] in JSON, or a CSV file with '
    "the columns name, prompt, negative_prompt"
)


def read_styles(path: str | os.PathLike[str]) -> tuple[Style, ...]:
    """The styles of a file, and those of the official names that it does not define itself.

    Rows without words separate groups in some files, and are skipped as rows that begin with # are.
    The last of several styles with one name counts, as in the web UI.

    Raises:
      InputError: if the file is not one of styles.
    """
    path = local_path(path)
    text = read_utf8(path)
    try:
        is_json = path.suffix.lower() == ".json" or text.lstrip().startswith(("[", "{"))
        styles = list(_of_json(text) if is_json else _of_csv(text))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    with_words = [style for style in styles if style.prompt or style.negative_prompt]
    if not with_words:
        raise InputError(f"{path} has no styles: {EXPECTED}")
    for name, count in collections.Counter(style.name for style in with_words).items():
        if count > 1:
            logger.warning("%s has %d styles named %r: the last one is used", path, count, name)
    named = {style.name: style for style in with_words}
    own = {name.casefold() for name in named}
    return (*named.values(), *(s for s in STYLES if s.name.casefold() not in own))


def _of_json(text: str) -> Iterable[Style]:
    try:
        rows: Any = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise InputError(f"not valid JSON ({error}): {EXPECTED}") from error
    if not isinstance(rows, list):
        raise InputError(f"holds a {type(rows).__name__}: {EXPECTED}")
    for i, row in enumerate(cast(list[Any], rows)):
        if not isinstance(row, dict) or NAME not in row:
            raise InputError(f"entry {i + 1} is not an object with a name: {EXPECTED}")
        yield _style(f"entry {i + 1}", cast(dict[str, Any], row))


def _of_csv(text: str) -> Iterable[Style]:
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        columns = [(name or "").strip().lower() for name in rows.fieldnames or ()]
        prompt = PROMPT if PROMPT in columns else OLD_PROMPT
        if NAME not in columns or prompt not in columns:
            raise InputError(f"its first row has no columns name and prompt: {EXPECTED}")
        rows.fieldnames = columns
        for row in rows:
            name = (row[NAME] or "").strip()
            if name and not name.startswith("#"):
                values = {NAME: name, PROMPT: row[prompt], NEGATIVE: row.get(NEGATIVE)}
                yield _style(f"line {rows.line_num}", values)
    except csv.Error as error:
        raise InputError(f"line {rows.line_num}: {error}: {EXPECTED}") from error


def _style(place: str, row: dict[str, Any]) -> Style:
    """A style of a row; what is missing, or null, is empty."""
    values = {
        name: check_text(f"{place}: {name}", "" if row.get(name) is None else row[name]).strip()
        for name in (NAME, PROMPT, NEGATIVE)
    }
    if not values[NAME]:
        raise InputError(f"{place} has no name: {EXPECTED}")
    return Style(**values)
