"""Textual inversion: names in prompts that stand for learned vectors.

Sources: Gal et al. 2022. The name is a word of the prompt, as in AUTOMATIC1111's web UI and
diffusers, or follows `embedding:`, as in ComfyUI.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from instantid_jax.errors import InputError

# What may follow the name of a file, as in ComfyUI's embedding:name.pt.
SUFFIXES = (".safetensors", ".pt", ".bin")
# A hyphen or a dot joins two words to one: "style" is not a word of "style-v2".
_STARTS = r"(?<!\w)(?<!\w[-.])"
_ENDS = r"(?!\w)(?![-.]\w)"
_PREFIX = "embedding:"
_UNRESOLVED = re.compile(rf"(?<!\w){_PREFIX}([^\s,()]+)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors with a name.

    Attributes:
      vectors: [n, width] float32, for each text encoder.
      source: the file, for messages.
    Raises:
      InputError: if a prompt cannot contain the name.
    """

    name: str
    vectors: tuple[np.ndarray, np.ndarray]
    source: str

    def __post_init__(self):
        object.__setattr__(self, "name", checked_name(self.name, self.source))

    def __len__(self) -> int:
        """The number of positions that it takes in a prompt."""
        return len(self.vectors[0])


def checked_name(name: str, source: str) -> str:
    """A name in the form that prompts are compared with: composed, without spaces around it.

    Raises:
      InputError: if a prompt cannot contain it.
    """
    if not (name.strip() and name.isprintable()):
        raise InputError(f"{source}: {name!r} cannot be the name of an embedding; give NAME=FILE")
    return unicodedata.normalize("NFC", name.strip())


# A prompt: text, and the embeddings whose names stand in it.
Pieces = Sequence[str | Embedding]


class Embeddings:
    """Finds the names of embeddings in prompts.

    Attributes:
      widths: the vectors' widths, for each text encoder.
      all: the embeddings, those with long names first.
    """

    def __init__(self, widths: tuple[int, int], embeddings: Sequence[Embedding] = ()):
        """The names have to differ when case is ignored."""
        self.widths = widths
        # A longer name may contain a shorter one.
        self.all = sorted(embeddings, key=lambda each: len(each.name), reverse=True)
        names = "|".join(_pattern(each.name) for each in self.all)
        self._names = re.compile(names, re.IGNORECASE) if names else None

    def split(self, prompt: str) -> Pieces:
        """The pieces of a prompt; without a name in it, the prompt alone."""
        if self._names is None:
            return [prompt]
        pieces: list[str | Embedding] = []
        # Names of files may be decomposed; the tokenizer composes the rest in any case.
        composed, end = unicodedata.normalize("NFC", prompt), 0
        for match in self._names.finditer(composed):
            assert match.lastindex is not None
            pieces += [composed[end : match.start()], self.all[match.lastindex - 1]]
            end = match.end()
        if not pieces:
            return [prompt]
        return [piece for piece in (*pieces, composed[end:]) if piece]

    def unresolved(self, prompts: Sequence[Pieces]) -> list[str]:
        """A line for each `embedding:name` that names no embedding."""
        known = ", ".join(sorted(each.name for each in self.all)) or "none"
        return [
            f"the prompt has {_PREFIX}{name}, and the embeddings are {known}: it is read as text"
            for pieces in prompts
            for piece in pieces
            if isinstance(piece, str)
            for name in _UNRESOLVED.findall(piece)
        ]


def _pattern(name: str) -> str:
    """A regular expression with one group."""
    starts = _STARTS if re.match(r"\w", name) else ""
    ends = _ENDS if re.search(r"\w$", name) else ""
    suffixes = "|".join(map(re.escape, SUFFIXES))
    return f"{starts}(?:{_PREFIX})?({re.escape(name)})(?:{suffixes})?{ends}"
