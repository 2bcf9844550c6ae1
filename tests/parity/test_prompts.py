"""Weighted and long prompts: transformers' encoders, chunk by chunk, and numpy's interpolation."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from instantid_jax import Face, InstantIDPipeline
from instantid_jax.pipeline.conditions.text import encode_text, resolve_text
from instantid_jax.request import Request
from tests.parity.reference import InstantIDReference, relative_error

TOLERANCE = 3e-5
WORDS = "the man in red rain " * 6
# Texts of the chunks, each with the weights of its words' tokens.
PROMPTS = {
    "a (man:1.3) [the] (rain:0)": [[("a", 1), ("man", 1.3), ("the", 1 / 1.1), ("rain", 0)]],
    WORDS: [[(WORDS, 1)]],
    "(the man:-0.5) BREAK (in (red:1.2)) rain": [
        [("the man", -0.5)],
        [("in", 1.1), ("red", 1.32), ("rain", 1)],
    ],
    "a " * 70 + ", in the (red rain:1.4) man": [
        [("a " * 70 + ",", 1)],
        [("in the", 1), ("red rain", 1.4), ("man", 1)],
    ],
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    InstantIDReference(tmp_path_factory.mktemp("tokenizers")).save(folder)
    ours = InstantIDPipeline.load(sdxl=str(folder / "sdxl"), instantid=str(folder / "instantid"))
    return ours, StableDiffusionXLPipeline.from_pretrained(folder / "sdxl")


def their_states(pipe, text: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Penultimate states of both encoders, [77, width], and the pooled state of the second."""
    states, pooled = [], None
    for tokenizer, encoder in (
        (pipe.tokenizer, pipe.text_encoder),
        (pipe.tokenizer_2, pipe.text_encoder_2),
    ):
        ids = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        assert ids.shape == (1, 77)
        with torch.no_grad():
            out = encoder(ids, output_hidden_states=True)
        states.append(out.hidden_states[-2][0].double().numpy())
        pooled = out[0][0].numpy()
    return states, pooled


def expected(pipe, chunks) -> tuple[np.ndarray, np.ndarray]:
    empty, _ = their_states(pipe, "")
    rows, pooled = [], []
    for chunk in chunks:
        states, each = their_states(pipe, " ".join(text for text, _ in chunk))
        weights = np.ones(77)
        place = 1
        for text, weight in chunk:
            count = len(pipe.tokenizer(text, add_special_tokens=False).input_ids)
            weights[place : place + count] = weight
            place += count
        rows.append(
            np.concatenate(
                [e + weights[:, None] * (z - e) for z, e in zip(states, empty, strict=True)], axis=1
            )
        )
        pooled.append(each)
    return np.concatenate(rows), pooled[0]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_states_are_transformers_interpolated(both, prompt):
    ours, theirs = both
    person = Face(embedding=np.ones(512), kps=np.ones((5, 2)))
    inputs = resolve_text(ours.model, [Request(prompt, face=person)], guidance=False)
    with ours.model.on_devices(ours.model.dtype):
        found, _ = encode_text(ours.model, inputs, guidance=False)
    hidden, pooled = expected(theirs, PROMPTS[prompt])
    assert found.hidden.shape == (1, *hidden.shape)
    assert relative_error(found.hidden[0], hidden) <= TOLERANCE
    assert relative_error(found.pooled[0], pooled) <= TOLERANCE
    without = [[(text, 1) for text, _ in chunk] for chunk in PROMPTS[prompt]]
    unweighted, _ = expected(theirs, without)
    if any(weight != 1 for chunk in PROMPTS[prompt] for _, weight in chunk):
        assert relative_error(found.hidden[0], unweighted) > 100 * TOLERANCE


def test_a_prompt_without_weights_is_diffusers(both):
    ours, theirs = both
    person = Face(embedding=np.ones(512), kps=np.ones((5, 2)))
    prompts = ("a man, in the rain", "red :) man")
    request = Request(prompts[0], face=person, negative_prompt=prompts[1])
    inputs = resolve_text(ours.model, [request], guidance=True)
    with ours.model.on_devices(ours.model.dtype):
        found = encode_text(ours.model, inputs, guidance=True)
    with torch.no_grad():
        wanted = theirs.encode_prompt(prompts[0], negative_prompt=prompts[1], device="cpu")
    for states, hidden, pooled in zip(found, wanted[:2], wanted[2:], strict=True):
        assert relative_error(states.hidden, hidden) <= TOLERANCE
        assert relative_error(states.pooled, pooled) <= TOLERANCE
