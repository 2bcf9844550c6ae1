"""Prompts: texts to tokens on the host, tokens to hidden states on the devices."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.models.instantid import Texts
from instantid_jax.pipeline import programs
from instantid_jax.pipeline.model import TEXT_ENCODERS, LoadedModel
from instantid_jax.prompt import Tokens, tokenize
from instantid_jax.request.checks import check_whole
from instantid_jax.request.request import Request

Which = Literal["prompt", "negative_prompt"]
# For each text encoder.
BothTokens = tuple[Tokens, Tokens]
# On the devices; states that are given to a mesh stay on the host until its program runs.
States = Texts[jax.Array | np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class TextInputs:
    """The prompts of B requests.

    Attributes:
      positive: tokens, or the states that were given.
      negative: the same, or None for zeros; not used without guidance.
      zero: [B] bool, the requests whose negative states are zeros.
      clip_skip: layers left out for the positive prompts. As in diffusers, none is left out for
        the negative ones.
    """

    positive: BothTokens | Texts[np.ndarray]
    negative: BothTokens | Texts[np.ndarray] | None
    zero: np.ndarray
    clip_skip: int


def resolve_text(model: LoadedModel, requests: Sequence[Request], guidance: bool) -> TextInputs:
    """Tokenizes the prompts; logs a warning for text that a prompt's limit cuts off.

    Raises:
      InputError: if a prompt is missing, or states do not fit the model or each other.
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
        else:
            _check_lengths(positive, negative)
    skips = {0 if request.clip_skip is None else request.clip_skip for request in requests}
    if len(skips) > 1:
        raise InputError(f"clip_skip={sorted(skips)} in one batch: run these requests separately")
    configs = [getattr(model.networks, name).config for name in TEXT_ENCODERS]
    layers = min(config.num_hidden_layers for config in configs)
    (skip,) = skips
    return TextInputs(positive, negative, zero, check_whole("clip_skip", skip, 0, layers - 1))


def encode_text(
    model: LoadedModel, inputs: TextInputs, guidance: bool
) -> tuple[States, States | None]:
    """Hidden states of the positive prompts, and with guidance of the negative ones."""
    positive = _encode(model, inputs.positive, inputs.clip_skip)
    if not guidance:
        return positive, None
    if inputs.negative is None:
        zeros = [np.zeros(each.shape, each.dtype) for each in positive]
        return positive, model.place(States(*zeros))
    negative = _encode(model, inputs.negative, 0)
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


def _encode(model: LoadedModel, given: BothTokens | Texts[np.ndarray], clip_skip: int) -> States:
    if isinstance(given, Texts):
        return model.place(given)
    params = (model.params["text_encoder"], model.params["text_encoder_2"])
    return programs.encode_text(model.networks, params, given, clip_skip)


def _given(
    model: LoadedModel, requests: Sequence[Request], which: Which
) -> tuple[BothTokens | Texts[np.ndarray], np.ndarray]:
    """Tokens or states of one kind of prompt, and whether each request has none of either."""
    hidden, pooled = f"{which}_embeds", f"{which.replace('prompt', 'pooled_prompt')}_embeds"
    given = [getattr(each, hidden) is not None for each in requests]
    if all(given):
        stacked = [
            _stack(model, [getattr(each, name) for each in requests], name)
            for name in (hidden, pooled)
        ]
        return Texts(*stacked), np.zeros(len(requests), bool)
    if any(given):
        raise InputError(
            f"some requests of a batch give {which} and others {hidden}: run them separately"
        )
    texts = [(getattr(each, which), getattr(each, f"{which}_2")) for each in requests]
    missing = np.array([pair == (None, None) for pair in texts])
    # Each stands for the other if that is None.
    first = [one if one is not None else two or "" for one, two in texts]
    second = [two if two is not None else one or "" for one, two in texts]
    return tokenize(model.tokenizers, (first, second), model.embeddings), missing


def _stack(model: LoadedModel, states: Sequence[np.ndarray], name: str) -> np.ndarray:
    """States that were given, [B, ..., width], in the model's dtype."""
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
    if len({each.shape for each in states}) > 1:
        raise InputError(f"{name} have different lengths in one batch: run them separately")
    return np.stack(states).astype(model.dtype)


def _check_lengths(
    positive: BothTokens | Texts[np.ndarray], negative: BothTokens | Texts[np.ndarray]
) -> None:
    """Both kinds of prompts are joined, so they need the same number of tokens."""
    lengths = [
        (each.hidden if isinstance(each, Texts) else each[0].ids).shape[1]
        for each in (positive, negative)
    ]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"prompt and negative prompt have {lengths[0]} and {lengths[1]} tokens: expected the "
            "same number"
        )
