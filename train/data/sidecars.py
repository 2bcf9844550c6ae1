"""The caption and the metadata of an image, out of the files that share its name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import charset_normalizer

# Endings of files with a caption; the first that is not empty counts.
CAPTIONS = ("txt", "caption")
NOTES = "json"
# Where metadata keep a caption, in the order of preference.
CAPTION_KEYS = ("caption", "text", "TEXT", "prompt")


class Sidecars(NamedTuple):
    """The caption and the metadata of an image.

    Attributes:
      caption: text, if there is any that is not empty.
      notes: metadata, by img2dataset's names.
    """

    caption: str | None
    notes: Mapping[str, Any]


def read_sidecars(image: Path) -> Sidecars:
    """Reads the files next to an image that have its name and another ending."""
    files = {
        kind: image.with_suffix(suffix)
        for kind in (*CAPTIONS, NOTES)
        for suffix in (f".{kind.upper()}", f".{kind}")
        if image.with_suffix(suffix).is_file()
    }
    return parse_sidecars({kind: file.read_bytes() for kind, file in files.items()})


def parse_sidecars(members: Mapping[str, bytes]) -> Sidecars:
    """Args: members, contents of files by lower-case ending."""
    notes = object_of(members.get(NOTES, b"{}"))
    texts = [text_of(members[kind]) for kind in CAPTIONS if kind in members]
    texts += [str(notes[key]).strip() for key in CAPTION_KEYS if isinstance(notes.get(key), str)]
    return Sidecars(next(filter(None, texts), None), notes)


def text_of(data: bytes) -> str:
    """Decodes text: UTF-8, what a byte-order mark names, or else the likeliest encoding."""
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        likeliest = charset_normalizer.from_bytes(data).best()
        text = data.decode("latin-1") if likeliest is None else str(likeliest)
        return text.strip("\ufeff \t\r\n")


def object_of(data: bytes) -> Mapping[str, Any]:
    """Parses a JSON object; anything else gives an empty one."""
    try:
        notes = json.loads(text_of(data))
    except (ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}
