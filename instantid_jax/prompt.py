"""Prompts to token ids, by transformers' CLIP tokenizers."""

import bisect
import functools
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from instantid_jax.errors import InputError

# The id where a vector stands instead of a token. It is below all others, so that the end of the
# text keeps the highest one.
VECTOR = -1
END_OF_WORD = "</w>"
# Two letters or more: every single one is a token.
WORD = re.compile(r"[^\W\d_]{2,}")


class Tokens(NamedTuple):
    """Prompts as a text encoder takes them.

    Attributes:
      ids: [B, chunks, L] int32, `VECTOR` where a vector stands.
      vectors: [B, chunks, L, width] float32, zeros where a token stands.
    """

    ids: np.ndarray
    vectors: np.ndarray


class PromptTokenizer:
    """The tokenizer of one text encoder."""

    def __init__(self, folder: Path, *, positions: int, vocabulary: int):
        """Reads `vocab.json` and `merges.txt`, or `tokenizer.json`, with their settings.

        Args:
          positions: the text encoder's maximum number of tokens.
          vocabulary: its vocabulary size.
        Raises:
          InputError: if the folder holds no CLIP tokenizer, or that of another text encoder.
        """
        # Otherwise transformers warns at import that torch is missing.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers import CLIPTokenizer  # slow to import

        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise InputError(
                f"{folder} holds no tokenizer: expected vocab.json and merges.txt, or "
                "tokenizer.json, as in SDXL base's tokenizer folders"
            )
        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        # The tokenizers package raises bare `Exception`s for damaged files.
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{folder} holds no readable CLIP tokenizer: {reason}") from error
        if len(self._tokenizer) > vocabulary:
            raise InputError(
                f"{folder} has {len(self._tokenizer)} tokens, its text encoder knows {vocabulary}: "
                "use the tokenizer of this text encoder"
            )
        # Its padding and truncation are state that calls set, also in other threads.
        self._lock = threading.Lock()
        # Length of a padded prompt with start and end tokens. The file may set no bound.
        self.length = min(self._tokenizer.model_max_length, positions)
        # A vocabulary of bytes alone, as random models have, spells every prompt.
        self._has_words = any(
            token.endswith(END_OF_WORD) and len(token) > len(END_OF_WORD) + 1
            for token in self._tokenizer.get_vocab()
        )

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """Returns [B, length] int32 ids, padded and truncated."""
        padded = self._ids(
            list(prompts), padding="max_length", max_length=self.length, truncation=True
        )
        return np.asarray(padded, np.int32)

    def tokens(self, text: str) -> list[int]:
        """All token ids of a text, without start and end."""
        return self._ids(text, add_special_tokens=False, verbose=False)

    def kept(self, text: str) -> str:
        """The beginning of a text that is not truncated."""
        ends = range(len(text) + 1)
        fitting = bisect.bisect(ends, self.length - 2, key=lambda end: len(self.tokens(text[:end])))
        return text[: fitting - 1]

    def row(self, tokens: Sequence[int]) -> np.ndarray:
        """[length] int32: tokens between start and end, padded; length - 2 at most."""
        row = self([""])[0]
        end = row[1]
        row[1 : len(tokens) + 1] = tokens
        row[len(tokens) + 1] = end
        return row

    @functools.cached_property
    def comma(self) -> int | None:
        """The id of a comma; None if it is more than one token."""
        tokens = self.tokens(",")
        return tokens[0] if len(tokens) == 1 else None

    def unknown(self, prompts: Sequence[str]) -> list[str]:
        """A line for each prompt none of whose words is a token of its own."""
        lines = []
        for prompt in prompts:
            words = WORD.findall(prompt)
            # With the start and the end of the text, a known word has three.
            if words and self._has_words and min(map(len, self._ids(words))) > 3:
                lines.append(
                    f"the model's vocabulary has none of the words of {prompt!r}: it reads them "
                    "letter by letter, and likely cannot draw them"
                )
        return lines

    def _ids(self, texts: str | list[str], **settings: Any) -> Any:
        """The ids of a text, or of each."""
        with self._lock:
            return self._tokenizer(texts, **settings).input_ids
