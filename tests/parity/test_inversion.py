"""Textual inversions: what diffusers' loader and transformers make of the same files."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from instantid_jax import Face, InstantIDPipeline
from instantid_jax.pipeline.conditions.text import encode_text, resolve_text
from instantid_jax.request import Request
from tests.parity.reference import (
    END,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    InstantIDReference,
    relative_error,
    unit_noise,
    vocabulary,
)

TOLERANCE = 3e-5
WIDTHS = (TEXT_ENCODER["hidden_size"], TEXT_ENCODER_2["hidden_size"])
PROMPTS = {
    "among words": ("a man, style-v2, in the rain", "bad"),
    "first and last": ("style-v2 bad", "blurry bad bad"),
    "next to punctuation": ("(style-v2) film noir, bad.", "style-v2's"),
    "pivotal tuning": ("a photo of <s0><s2> in <s1> rain", "<s1>"),
    "up to the last token": (f"{'a ' * 72} style-v2", "rain " * 74 + "bad"),
    "none of them": ("a man in the rain", "blurry"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    for number, (name, rows) in enumerate({"style-v2": 3, "bad": 1, "me_emb": 3}.items()):
        vectors = [2 * unit_noise(10 * number + i, rows, width) for i, width in enumerate(WIDTHS)]
        both = dict(zip(("clip_l", "clip_g"), map(torch.from_numpy, vectors), strict=True))
        save_file(both, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module", params=[2, "real"])
def both(request, files, tmp_path_factory):
    """Ours and diffusers', with the `eos_token_id` of SDXL's files or with the token's own id."""
    folder = tmp_path_factory.mktemp("published")
    end = vocabulary()[END]
    chosen = 2 if request.param == 2 else end
    InstantIDReference(tmp_path_factory.mktemp("tokenizers"), eos_token_id=chosen).save(folder)
    ours = InstantIDPipeline.load(
        sdxl=str(folder / "sdxl"),
        instantid=str(folder / "instantid"),
        embeddings=sorted(map(str, files.iterdir())),
    )
    theirs = StableDiffusionXLPipeline.from_pretrained(folder / "sdxl")
    encoders = (
        (theirs.tokenizer, theirs.text_encoder),
        (theirs.tokenizer_2, theirs.text_encoder_2),
    )
    for file in files.iterdir():
        for key, (tokenizer, encoder) in zip(("clip_l", "clip_g"), encoders, strict=True):
            vectors, token = load_file(file)[key], file.stem
            if file.stem == "me_emb":
                vectors, token = list(vectors), ["<s0>", "<s1>", "<s2>"]
            theirs.load_textual_inversion(
                vectors, token=token, tokenizer=tokenizer, text_encoder=encoder
            )
    return ours, theirs, end


def our_states(pipe, prompt, negative, **settings):
    person = Face(embedding=np.ones(512), kps=np.ones((5, 2)))
    settings = {"negative_prompt": negative, "prompt_weighting": False, **settings}
    request = Request(prompt, face=person, **settings)
    inputs = resolve_text(pipe.model, [request], guidance=True)
    with pipe.model.on_devices(pipe.model.dtype):
        return encode_text(pipe.model, inputs, guidance=True)


def their_pooled(pipe, prompt: str, end: int) -> np.ndarray:
    """The state at the end of the text, wherever transformers pools."""
    tokenizer, encoder = pipe.tokenizer_2, pipe.text_encoder_2
    prompt = pipe.maybe_convert_prompt(prompt, tokenizer)
    ids = tokenizer(
        prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        states = encoder(ids).last_hidden_state
        position = (ids[0] == end).nonzero()[0, 0]
        return encoder.text_projection(states[:, position]).numpy()


@pytest.mark.parametrize("name", PROMPTS)
def test_states_are_diffusers(both, name):
    ours, theirs, end = both
    prompts = PROMPTS[name]
    found = our_states(ours, *prompts)
    with torch.no_grad():
        wanted = theirs.encode_prompt(prompts[0], negative_prompt=prompts[1], device="cpu")
    for states, hidden, prompt in zip(found, wanted[:2], prompts, strict=True):
        assert relative_error(states.hidden, hidden) <= TOLERANCE
        assert relative_error(states.pooled, their_pooled(theirs, prompt, end)) <= TOLERANCE
    # Where it is 2, transformers pools at an embedding instead, whose id is the highest.
    trapped = theirs.text_encoder_2.config.eos_token_id == 2 and name != "none of them"
    errors = [relative_error(s.pooled, p) for s, p in zip(found, wanted[2:], strict=True)]
    assert errors[0] > 100 * TOLERANCE if trapped else max(errors) <= TOLERANCE


def test_clip_skip_and_second_prompts_are_diffusers(both):
    ours, theirs, _ = both
    prompt, second = "a man, style-v2", "bad rain"
    (found, _) = our_states(ours, prompt, "", prompt_2=second, clip_skip=1)
    with torch.no_grad():
        wanted, *_ = theirs.encode_prompt(prompt, second, device="cpu", clip_skip=1)
    assert relative_error(found.hidden, wanted) <= TOLERANCE


def test_without_the_files_the_states_are_others(both):
    """And those of a prompt that names none keep their bits."""
    ours, *_ = both
    states = {name: our_states(ours, *prompts) for name, prompts in PROMPTS.items()}
    sources = ours.sources.embeddings
    ours.set_embeddings([])
    try:
        for name, prompts in PROMPTS.items():
            plain = our_states(ours, *prompts)
            if name == "none of them":
                for with_them, without in zip(states[name], plain, strict=True):
                    np.testing.assert_array_equal(with_them.hidden, without.hidden)
                    np.testing.assert_array_equal(with_them.pooled, without.pooled)
            else:
                # Letter by letter, a name may need a second chunk.
                others = plain[0].hidden[:, :77]
                assert relative_error(states[name][0].hidden, others) > 100 * TOLERANCE
    finally:
        ours.set_embeddings(sources)
