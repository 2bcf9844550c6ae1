"""Prompts to token ids, by transformers' CLIP tokenizers."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from instantid_jax.errors import InputError

logger = logging.getLogger(__name__)

END_OF_WORD = "</w>"
# Two letters or more: every single one is a token.
WORD = re.compile(r"[^\W\d_]{2,}")


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
        # Length of a padded prompt with start and end tokens. The file may set no bound.
        self.length = min(self._tokenizer.model_max_length, positions)
        # A vocabulary of bytes alone, as random models have, spells every prompt.
        self._has_words = any(
            token.endswith(END_OF_WORD) and len(token) > len(END_OF_WORD) + 1
            for token in self._tokenizer.get_vocab()
        )

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """Returns [B, length] int32 ids, padded and truncated."""
        ids = self._tokenizer(
            list(prompts), padding="max_length", max_length=self.length, truncation=True
        ).input_ids
        return np.asarray(ids, np.int32)

    def lost(self, prompts: Sequence[str]) -> list[str]:
        """One line for each truncated prompt, quoting the lost text."""
        lines = []
        for ids in self._tokenizer(list(prompts), verbose=False).input_ids:
            if len(ids) > self.length:
                rest = self._tokenizer.decode(ids[self.length - 1 : -1]).strip()
                lines.append(
                    f"the prompt has {len(ids)} tokens and is truncated to {self.length}; "
                    f"lost: {rest!r}"
                )
        return lines

    def unknown(self, prompts: Sequence[str]) -> list[str]:
        """A line for each prompt none of whose words is a token of its own."""
        lines = []
        for prompt in prompts:
            words = WORD.findall(prompt)
            # With the start and the end of the text, a known word has three.
            if words and self._has_words and min(map(len, self._tokenizer(words).input_ids)) > 3:
                lines.append(
                    f"the model's vocabulary has none of the words of {prompt!r}: it reads them "
                    "letter by letter, and likely cannot draw them"
                )
        return lines


def tokenize(
    tokenizers: tuple[PromptTokenizer, PromptTokenizer], prompts: tuple[Sequence[str], ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [B, length] for both text encoders; logs each distinct warning once."""
    pairs = list(zip(tokenizers, prompts, strict=True))
    lines = (
        line
        for tokenizer, texts in pairs
        for line in (*tokenizer.lost(texts), *tokenizer.unknown(texts))
    )
    for line in dict.fromkeys(lines):
        logger.warning("%s", line)
    first, second = (tokenizer(texts) for tokenizer, texts in pairs)
    return first, second
