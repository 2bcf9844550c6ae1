"""Prompts to token ids, by transformers' CLIP tokenizers."""

import itertools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.inversion import Embedding, Embeddings, Pieces

logger = logging.getLogger(__name__)

# The id where a vector stands instead of a token. It is below all others, so that the end of the
# text keeps the highest one.
VECTOR = -1
END_OF_WORD = "</w>"
# Two letters or more: every single one is a token.
WORD = re.compile(r"[^\W\d_]{2,}")


class Tokens(NamedTuple):
    """Prompts as a text encoder takes them.

    Attributes:
      ids: [B, L] int32, `VECTOR` where a vector stands.
      vectors: [B, L, width] float32, zeros where a token stands.
    """

    ids: np.ndarray
    vectors: np.ndarray


class Position(NamedTuple):
    """One of an embedding's vectors, in a prompt."""

    embedding: Embedding
    number: int


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

    def with_vectors(self, pieces: Pieces) -> tuple[np.ndarray, dict[int, Position]]:
        """Ids [length] of a prompt with embeddings, and what stands at `VECTOR`, by index."""
        row = self([""])[0]
        end = row[1]
        kept = self._positions(pieces)[: self.length - 2]
        row[1 : len(kept) + 1] = [VECTOR if isinstance(p, Position) else p for p in kept]
        row[len(kept) + 1] = end
        vectors = {i: p for i, p in enumerate(kept, 1) if isinstance(p, Position)}
        return row, vectors

    def _positions(self, pieces: Pieces) -> list[int | Position]:
        """All token ids and vectors of a prompt, without its start and end."""
        found: list[int | Position] = []
        for piece in pieces:
            if isinstance(piece, Embedding):
                found += [Position(piece, i) for i in range(len(piece))]
            else:
                tokens = self._tokenizer(piece, add_special_tokens=False, verbose=False)
                found += tokens.input_ids
        return found

    def lost(self, prompts: Sequence[str | Pieces]) -> list[str]:
        """One line for each truncated prompt, quoting the lost text."""
        lines = []
        for prompt in prompts:
            positions = self._positions([prompt] if isinstance(prompt, str) else prompt)
            rest = positions[self.length - 2 :]
            if rest:
                lines.append(
                    f"the prompt has {len(positions) + 2} tokens and is truncated to "
                    f"{self.length}; lost: {self._text(rest)!r}"
                )
        return lines

    def _text(self, positions: Sequence[int | Position]) -> str:
        """The text of token ids, and the names of embeddings."""
        parts = []
        for embedding, group in itertools.groupby(
            positions, lambda each: each.embedding if isinstance(each, Position) else None
        ):
            named = embedding is not None
            parts.append(embedding.name if named else self._tokenizer.decode(list(group)).strip())
        return " ".join(parts)

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
    tokenizers: tuple[PromptTokenizer, PromptTokenizer],
    prompts: tuple[Sequence[str], Sequence[str]],
    embeddings: Embeddings,
) -> tuple[Tokens, Tokens]:
    """Prompts for both text encoders; logs each distinct warning once."""
    split = [[embeddings.split(prompt) for prompt in texts] for texts in prompts]
    lines = (
        line
        for tokenizer, texts in zip(tokenizers, split, strict=True)
        for line in (
            *tokenizer.lost(texts),
            *tokenizer.unknown(list(filter(None, map(_plain, texts)))),
            *embeddings.unresolved(texts),
        )
    )
    for line in dict.fromkeys(lines):
        logger.warning("%s", line)
    first, second = (
        _tokens(tokenizer, texts, encoder, embeddings.widths[encoder])
        for encoder, (tokenizer, texts) in enumerate(zip(tokenizers, split, strict=True))
    )
    return first, second


def _tokens(
    tokenizer: PromptTokenizer, prompts: Sequence[Pieces], encoder: int, width: int
) -> Tokens:
    """Ids, and the vectors of embeddings.

    Args:
      encoder: 0 or 1, the text encoder.
      width: the width of its vectors.
    """
    ids = tokenizer([_plain(pieces) or "" for pieces in prompts])
    vectors = np.zeros((*ids.shape, width), np.float32)
    for i, pieces in enumerate(prompts):
        if _plain(pieces) is None:
            ids[i], placed = tokenizer.with_vectors(pieces)
            for at, (embedding, number) in placed.items():
                vectors[i, at] = embedding.vectors[encoder][number]
    return Tokens(ids, vectors)


def _plain(pieces: Pieces) -> str | None:
    """The prompt, if there is no embedding in it."""
    first = pieces[0]
    return first if len(pieces) == 1 and isinstance(first, str) else None
