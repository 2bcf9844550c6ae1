"""Prompts in chunks: rows of tokens that a text encoder takes, each encoded by itself.

As in AUTOMATIC1111's web UI, a chunk has 75 tokens between a start and an end, the words after its
last comma move to the next chunk if they are few, and an embedding is not split.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.inversion import Embedding, Embeddings
from instantid_jax.prompt import VECTOR, PromptTokenizer, Tokens

logger = logging.getLogger(__name__)

# Each number of chunks is a shape, which compiles.
MOST = 4
# A comma further than this from the end of its chunk is left alone.
NEAR = 20


class Run(NamedTuple):
    """Words of one weight."""

    text: str
    weight: float


# Between two BREAKs.
Part = Sequence[Run]
Prompt = Sequence[Part]


class Position(NamedTuple):
    """One place in a chunk: a token, or a vector of an embedding, where `token` is `VECTOR`."""

    token: int
    weight: float
    vector: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Chunks:
    """B prompts for one text encoder.

    Attributes:
      width: the width of embeddings' vectors.
      prompts: the chunks of each prompt, without starts and ends; there may be none.
    """

    tokenizer: PromptTokenizer
    width: int
    prompts: Sequence[Sequence[Sequence[Position]]]

    @property
    def counts(self) -> list[int]:
        """The number of each prompt's chunks, at least one."""
        return [max(1, len(prompt)) for prompt in self.prompts]

    def tokens(self, count: int) -> Tokens:
        """`count` chunks of each prompt; those that a prompt lacks are the empty prompt's."""
        shape = (len(self.prompts), count, self.tokenizer.length)
        ids = np.broadcast_to(self.tokenizer([""])[0], shape).copy()
        vectors = np.zeros((*shape, self.width), np.float32)
        for i, prompt in enumerate(self.prompts):
            for j, chunk in enumerate(prompt):
                ids[i, j] = self.tokenizer.row([each.token for each in chunk])
                for at, each in enumerate(chunk, 1):
                    if each.vector is not None:
                        vectors[i, j, at] = each.vector
        return Tokens(ids, vectors)

    def weights(self, count: int) -> np.ndarray:
        """The weights of `tokens`, [B, count, L] float32; 1 for starts, ends and padding."""
        weights = np.ones((len(self.prompts), count, self.tokenizer.length), np.float32)
        for i, prompt in enumerate(self.prompts):
            for j, chunk in enumerate(prompt):
                weights[i, j, 1 : len(chunk) + 1] = [each.weight for each in chunk]
        return weights


def make_chunks(
    tokenizers: tuple[PromptTokenizer, PromptTokenizer],
    prompts: tuple[Sequence[Prompt], Sequence[Prompt]],
    embeddings: Embeddings,
) -> tuple[Chunks, Chunks]:
    """Prompts for both text encoders; logs each distinct warning once.

    Raises:
      InputError: if a prompt has too many tokens, or an embedding too many vectors.
    """
    both: list[Chunks] = []
    lines: list[str] = []
    for encoder, (tokenizer, texts) in enumerate(zip(tokenizers, prompts, strict=True)):
        split = [[_split(part, embeddings) for part in prompt] for prompt in texts]
        lines += _warnings(tokenizer, split, embeddings)
        chunked = [_chunk(tokenizer, prompt, encoder) for prompt in split]
        both.append(Chunks(tokenizer, embeddings.widths[encoder], chunked))
    for line in dict.fromkeys(lines):
        logger.warning("%s", line)
    first, second = both
    return first, second


def _split(part: Part, embeddings: Embeddings) -> list[tuple[str | Embedding, float]]:
    return [(piece, run.weight) for run in part for piece in embeddings.split(run.text)]


def _warnings(
    tokenizer: PromptTokenizer,
    prompts: Sequence[Sequence[Sequence[tuple[str | Embedding, float]]]],
    embeddings: Embeddings,
) -> Iterator[str]:
    for prompt in prompts:
        pieces = [piece for part in prompt for piece, _ in part]
        texts = [piece for piece in pieces if isinstance(piece, str)]
        # The name of an embedding is a known word.
        if len(texts) == len(pieces):
            yield from tokenizer.unknown([" ".join(texts)])
        yield from embeddings.unresolved([pieces])


def _chunk(
    tokenizer: PromptTokenizer,
    prompt: Sequence[Sequence[tuple[str | Embedding, float]]],
    encoder: int,
) -> list[list[Position]]:
    """The chunks of one prompt; parts without tokens have none."""
    size = tokenizer.length - 2
    chunks: list[list[Position]] = []
    for part in prompt:
        chunk: list[Position] = []
        for piece, weight in part:
            for unit in _units(tokenizer, piece, weight, encoder):
                if len(chunk) + len(unit) > size:
                    chunks.append(chunk)
                    chunk = _moved(chunk, unit, size, tokenizer.comma)
                chunk.extend(unit)
        if chunk:
            chunks.append(chunk)
    if len(chunks) > MOST:
        raise InputError(
            f"the prompt has {sum(map(len, chunks))} tokens and takes {len(chunks)} chunks of "
            f"{size}: expected {MOST} chunks at most; shorten it"
        )
    return chunks


def _units(
    tokenizer: PromptTokenizer, piece: str | Embedding, weight: float, encoder: int
) -> Iterator[list[Position]]:
    """Positions that stay together: a token's, or those of all vectors of an embedding."""
    if isinstance(piece, str):
        for token in tokenizer.tokens(piece):
            yield [Position(token, weight, None)]
        return
    if len(piece) > tokenizer.length - 2:
        raise InputError(
            f"the embedding {piece.name} has {len(piece)} vectors, a prompt's chunk takes "
            f"{tokenizer.length - 2}: use an embedding with fewer"
        )
    yield [Position(VECTOR, weight, vector) for vector in piece.vectors[encoder]]


def _moved(
    chunk: list[Position], unit: Sequence[Position], size: int, comma: int | None
) -> list[Position]:
    """Takes the words after the last comma out of a full chunk, if they are few.

    Args:
      unit: what did not fit, and has to fit after them.
    """
    commas = [i for i, each in enumerate(chunk) if each.token == comma]
    if not commas or unit[0].token == comma or len(chunk) - commas[-1] > NEAR:
        return []
    first = commas[-1] + 1
    if len(chunk) - first + len(unit) > size:
        return []
    moved = chunk[first:]
    del chunk[first:]
    return moved
