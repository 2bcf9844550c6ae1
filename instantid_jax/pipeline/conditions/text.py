"""Prompts: texts to tokens on the host, tokens to hidden states on the devices."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from instantid_jax.chunks import Chunks, Prompt, make_chunks
from instantid_jax.errors import InputError
from instantid_jax.models.instantid import Texts
from instantid_jax.pipeline import programs
from instantid_jax.pipeline.model import TEXT_ENCODERS, LoadedModel
from instantid_jax.request.checks import check_whole
from instantid_jax.request.prompt_weights import read_prompt
from instantid_jax.request.request import Request

logger = logging.getLogger(__name__)

Which = Literal["prompt", "negative_prompt"]
# For each text encoder.
BothChunks = tuple[Chunks, Chunks]
# On the devices; states that are given to a mesh stay on the host until its program runs.
States = Texts[jax.Array | np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedTexts:
    """States that B requests give.

    Attributes:
      hidden: [L, D] of each; of any lengths.
      pooled: [B, P].
    """

    hidden: Sequence[np.ndarray]
    pooled: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TextInputs:
    """The prompts of B requests.

    Attributes:
      positive: in chunks, or the states that were given.
      negative: the same, or None for zeros; not used without guidance.
      zero: [B] bool, the requests whose negative states are zeros.
      clip_skip: layers left out for the positive prompts. As in diffusers, none is left out for
        the negative ones.
      length: L, tokens of all hidden states; shorter ones are continued with the empty prompt's.
    """

    positive: BothChunks | EncodedTexts
    negative: BothChunks | EncodedTexts | None
    zero: np.ndarray
    clip_skip: int
    length: int


def resolve_text(model: LoadedModel, requests: Sequence[Request], guidance: bool) -> TextInputs:
    """Reads and tokenizes the prompts; logs numbers of chunks, and what may be unexpected.

    Raises:
      InputError: if a prompt is missing or too long or its weights cannot be read, or if states do
        not fit the model or each other.
    """
    positive, missing = _given(model, requests, "prompt")
    if missing.any():
        raise InputError("no prompt: give prompt or prompt_embeds")
    negative, zero = None, np.zeros(len(requests), bool)
    if guidance:
        negative, missing = _given(model, requests, "negative_prompt")
        zero = missing & model.force_zeros_for_empty_prompt
        if zero.all():
            negative = None
    skips = {0 if request.clip_skip is None else request.clip_skip for request in requests}
    if len(skips) > 1:
        raise InputError(f"clip_skip={sorted(skips)} in one batch: run these requests separately")
    configs = [getattr(model.networks, name).config for name in TEXT_ENCODERS]
    layers = min(config.num_hidden_layers for config in configs)
    (skip,) = skips
    clip_skip = check_whole("clip_skip", skip, 0, layers - 1)
    return TextInputs(positive, negative, zero, clip_skip, _length(model, positive, negative))


def encode_text(
    model: LoadedModel, inputs: TextInputs, guidance: bool
) -> tuple[States, States | None]:
    """Hidden states of the positive prompts, and with guidance of the negative ones."""
    positive = _encode(model, inputs.positive, inputs.length, inputs.clip_skip)
    if not guidance:
        return positive, None
    if inputs.negative is None:
        zeros = [np.zeros(each.shape, each.dtype) for each in positive]
        return positive, model.place(States(*zeros))
    negative = _encode(model, inputs.negative, inputs.length, 0)
    if inputs.zero.any():
        keep = ~inputs.zero
        # On the host: mixed batches are rare, and a program of their own would compile for them.
        negative = model.place(
            States(
                np.asarray(negative.hidden) * keep[:, None, None].astype(negative.hidden.dtype),
                np.asarray(negative.pooled) * keep[:, None].astype(negative.pooled.dtype),
            )
        )
    return positive, negative


def without_zeros(model: LoadedModel, inputs: TextInputs, negative: States | None) -> States | None:
    """Negative states with those of the empty prompt instead of zeros, as the refiner takes them.

    Args:
      negative: from `encode_text`.
    """
    if negative is None or not inputs.zero.any():
        return negative
    if inputs.negative is not None:
        return _encode(model, inputs.negative, inputs.length, 0)
    batch, unit = len(inputs.zero), model.tokenizers[0].length
    empty = _run(model, _empty(model, batch), -(-inputs.length // unit), 0)
    if inputs.length % unit == 0:
        return empty
    return model.place(Texts(np.asarray(empty.hidden)[:, : inputs.length], empty.pooled))


def _encode(
    model: LoadedModel, given: BothChunks | EncodedTexts, length: int, clip_skip: int
) -> States:
    if isinstance(given, EncodedTexts):
        return model.place(Texts(_continued(model, given.hidden, length, clip_skip), given.pooled))
    batch, count = len(given[0].prompts), length // given[0].tokenizer.length
    states = _run(model, given, count, clip_skip)
    weights = [each.weights(count) for each in given]
    if all((each == 1).all() for each in weights):
        return states
    # In a batch of the same shape: rounding depends on it, and no other program is needed.
    empty = _run(model, _empty(model, batch), count, clip_skip)
    widths = [getattr(model.networks, name).config.hidden_size for name in TEXT_ENCODERS]
    columns = np.stack(weights, axis=-1).reshape(batch, length, len(widths))
    hidden = weigh(
        np.asarray(states.hidden), np.asarray(empty.hidden), np.repeat(columns, widths, axis=-1)
    )
    return Texts(jax.device_put(hidden, states.hidden.sharding), states.pooled)


def weigh(hidden: np.ndarray, empty: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Moves hidden states away from those of the empty prompt, or towards them: [B, L, D].

    On the host, where nothing compiles. A weight of 1 keeps the bits.

    Args:
      empty: [B, L, D], states of the empty prompt at the same positions.
      weights: [B, L, D] float32.
    Source: ComfyUI's interpolation.
    """
    start = empty.astype(np.float32)
    # Weights may be too large; the steps report what is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        moved = start + weights * (hidden.astype(np.float32) - start)
        return np.where(weights == 1, hidden, moved.astype(hidden.dtype))


def _run(model: LoadedModel, given: BothChunks, count: int, clip_skip: int) -> Texts[jax.Array]:
    params = (model.params["text_encoder"], model.params["text_encoder_2"])
    first, second = given
    tokens = (first.tokens(count), second.tokens(count))
    return programs.encode_text(model.networks, params, tokens, clip_skip)


def _empty(model: LoadedModel, batch: int) -> BothChunks:
    """The empty prompt, `batch` times."""
    (one, two), (first, second) = model.tokenizers, model.embeddings.widths
    return Chunks(one, first, [()] * batch), Chunks(two, second, [()] * batch)


def _continued(
    model: LoadedModel, hidden: Sequence[np.ndarray], length: int, clip_skip: int
) -> np.ndarray:
    """[B, length, D]: states that are shorter are continued by those of empty chunks."""
    if all(len(each) == length for each in hidden):
        return np.stack(hidden)
    (empty,) = np.asarray(_run(model, _empty(model, 1), 1, clip_skip).hidden)
    return np.stack(
        [np.concatenate([each, *[empty] * ((length - len(each)) // len(empty))]) for each in hidden]
    )


def _given(
    model: LoadedModel, requests: Sequence[Request], which: Which
) -> tuple[BothChunks | EncodedTexts, np.ndarray]:
    """Chunks or states of one kind of prompt, and whether each request has none of either."""
    hidden, pooled = f"{which}_embeds", f"{which.replace('prompt', 'pooled_prompt')}_embeds"
    given = [getattr(each, hidden) is not None for each in requests]
    if all(given):
        states = _states(model, [getattr(each, hidden) for each in requests], hidden)
        stacked = np.stack(_states(model, [getattr(each, pooled) for each in requests], pooled))
        return EncodedTexts(states, stacked), np.zeros(len(requests), bool)
    if any(given):
        raise InputError(
            f"some requests of a batch give {which} and others {hidden}: run them separately"
        )
    names = (which, f"{which}_2")
    missing = np.array([all(getattr(each, name) is None for name in names) for each in requests])
    # Each stands for the other if that is None.
    first = [_read(request, *names) for request in requests]
    second = [_read(request, *names[::-1]) for request in requests]
    return make_chunks(model.tokenizers, (first, second), model.embeddings), missing


def _read(request: Request, name: str, other: str) -> Prompt:
    name = other if getattr(request, name) is None else name
    return read_prompt(name, getattr(request, name) or "", request.prompt_weighting)


def _states(model: LoadedModel, states: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    """States that were given, in the model's dtype."""
    hidden = "pooled" not in name
    width = (
        model.networks.unet.config.cross_attention_dim
        if hidden
        else model.networks.text_encoder_2.config.projection_dim
    )
    for each in states:
        if each.shape[-1] != width:
            expected = f"[L, {width}]" if hidden else f"[{width}]"
            raise InputError(f"{name} has shape {list(each.shape)}: expected {expected}")
    return [each.astype(model.dtype) for each in states]


def _length(
    model: LoadedModel,
    positive: BothChunks | EncodedTexts,
    negative: BothChunks | EncodedTexts | None,
) -> int:
    """The tokens of all hidden states: those of the longest prompt.

    Raises:
      InputError: if shorter ones cannot be continued by whole chunks.
    """
    unit = model.tokenizers[0].length
    both = [_lengths(given, unit) for given in (positive, negative) if given is not None]
    lengths = sorted({length for each in both for length in each})
    if len(lengths) > 1 and any(length % unit for length in lengths):
        raise InputError(
            f"prompts have {' and '.join(map(str, lengths))} tokens: expected one length, or "
            f"multiples of {unit}, which are continued with the empty prompt"
        )
    longest = lengths[-1]
    if longest > unit:
        _report(longest // unit, unit - 2)
    alone = min(map(max, *both)) if len(both) > 1 else lengths[0]
    if alone < longest:
        logger.warning(
            "the prompts of a batch take %d to %d chunks: the shorter ones are continued with the "
            "empty prompt, so that their images differ from those that they have by themselves",
            alone // unit,
            longest // unit,
        )
    return longest


def _lengths(given: BothChunks | EncodedTexts, unit: int) -> list[int]:
    """The tokens of each prompt's hidden states, in chunks of `unit`."""
    if isinstance(given, EncodedTexts):
        return [len(each) for each in given.hidden]
    first, second = given
    return [unit * max(each) for each in zip(first.counts, second.counts, strict=True)]


@functools.cache
def _report(chunks: int, size: int) -> None:
    """Once for each number of chunks."""
    logger.info(
        "a prompt takes %d chunks of %d tokens: each number of chunks compiles once", chunks, size
    )
