"""Weights and chunks of prompts, on a loaded pipeline."""

import logging

import jax
import numpy as np
import pytest

from instantid_jax import InstantIDPipeline
from instantid_jax.errors import InputError
from instantid_jax.pipeline.conditions import text
from instantid_jax.pipeline.conditions.text import encode_text, resolve_text, weigh
from instantid_jax.request import Request
from instantid_jax.request.styles import Style
from instantid_jax.sharding import sampling_mesh
from tests.pipeline.small_model import person
from tests.pipeline.test_compilation import compiled_by as compiled_by

# A chunk.
FULL = "abcde " * 15
# Rounding depends on the number of rows.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def states(pipe, *requests, guidance=False):
    """Hidden [B, L, D] and pooled [B, P] states, float32; with guidance also the negative ones."""
    requests = [Request(r) if isinstance(r, str) else Request(**r) for r in requests]
    inputs = resolve_text(pipe.model, requests, guidance)
    with pipe.model.on_devices(pipe.model.dtype):
        positive, negative = encode_text(pipe.model, inputs, guidance)
    both = (positive, negative) if guidance else (positive,)
    found = [tuple(np.asarray(array, np.float32) for array in each) for each in both]
    return found if guidance else found[0]


def assert_same(one, other):
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_one_change_no_bit(pipe, sample):
    plain = sample(prompt="a man, in the rain").latents
    for prompt in ("(a man:1.0), in the rain", "a [(man)], in (the:1) rain", r"a man, in the rain"):
        assert_same([sample(prompt=prompt).latents], [plain])
    brackets = sample(prompt="a (man)", prompt_weighting=False).latents
    assert_same([sample(prompt=r"a \(man\)").latents], [brackets])
    assert not np.array_equal(sample(prompt="a (man)").latents, brackets)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_words_of_weight_zero_are_the_empty_prompts(pipe, folder, dtype):
    own = pipe
    if dtype != "float32":
        own = InstantIDPipeline.load(sdxl=folder, instantid=folder, dtype=dtype)
    count = len(own.model.tokenizers[0].tokens("a man in the rain"))
    (zero, zero_pooled), (plain, pooled) = (
        states(own, prompt) for prompt in ("(a man in the rain:0)", "a man in the rain")
    )
    empty, _ = states(own, "")
    words = slice(1, count + 1)
    assert_same([zero[:, words]], [empty[:, words]])
    assert not np.allclose(plain[:, words], empty[:, words], atol=0.1)
    # The start, the end, the padding and the pooled state have no weight.
    assert_same([np.delete(zero, words, axis=1)], [np.delete(plain, words, axis=1)])
    assert_same([zero_pooled], [pooled])


def test_a_weight_moves_states_from_the_empty_prompts(pipe):
    (plain, _), (empty, _) = states(pipe, "ab cd ef"), states(pipe, "")
    for weight in (-0.5, 0.3, 1.5, 20):
        weighted, _ = states(pipe, f"ab (cd:{weight}) ef")
        wanted = np.float64(plain)
        wanted[:, 3:5] = empty[:, 3:5] + weight * (wanted[:, 3:5] - empty[:, 3:5])
        np.testing.assert_allclose(weighted, wanted, rtol=1e-4, atol=1e-5)
        assert_same([np.delete(weighted, [3, 4], axis=1)], [np.delete(plain, [3, 4], axis=1)])


def test_weigh_keeps_what_has_no_weight_and_reports_no_overflow():
    hidden, empty = np.float32([[[1e30, np.inf]]]), np.float32([[[-1e30, 0.1]]])
    assert_same(weigh(hidden, empty, np.ones_like(hidden)), hidden)
    assert not np.isfinite(weigh(hidden, empty, np.full_like(hidden, 1e30))).any()


def test_each_encoder_has_weights_of_its_own(pipe):
    width = pipe.model.networks.text_encoder.config.hidden_size
    plain, _ = states(pipe, {"prompt": "ab", "prompt_2": "cd ef"})
    for prompts, part in (
        ({"prompt": "(ab:1.5)", "prompt_2": "cd ef"}, slice(width)),
        ({"prompt": "ab", "prompt_2": "(cd:0.2) ef"}, slice(width, None)),
    ):
        weighted, _ = states(pipe, prompts)
        changed = (weighted != plain).any(axis=(0, 1))
        assert changed[part].all() and changed.sum() == changed[part].sum()


def test_clip_skip_leaves_layers_out_of_the_empty_prompt_too(pipe):
    (zero, _), (empty, _) = (
        states(pipe, {"prompt": prompt, "clip_skip": 1}) for prompt in ("(ab cd:0)", "")
    )
    assert_same([zero[:, 1:5]], [empty[:, 1:5]])
    other, _ = states(pipe, "")
    assert not np.allclose(empty[:, 1:5], other[:, 1:5])
    # None is left out for negative prompts.
    requests = {"prompt": "a", "negative_prompt": "(ab cd:0)", "clip_skip": 1}
    _, (negative, _) = states(pipe, requests, guidance=True)
    np.testing.assert_allclose(negative[:, 1:5], other[:, 1:5], **CLOSE)


def test_chunks_are_encoded_by_themselves(pipe):
    hidden, pooled = states(pipe, f"{FULL}, (fghij:1.3) rain BREAK snow")
    parts = [states(pipe, part) for part in (FULL, ", (fghij:1.3) rain", "snow")]
    assert hidden.shape == (1, 3 * 77, 96)
    np.testing.assert_allclose(hidden, np.concatenate([h for h, _ in parts], axis=1), **CLOSE)
    np.testing.assert_allclose(pooled, parts[0][1], **CLOSE)
    assert not np.allclose(parts[1][1], parts[0][1], atol=0.1)


def test_literal_text_has_chunks_too(pipe):
    given = {"prompt": f"{FULL}BREAK (a:1.2)", "prompt_weighting": False}
    hidden, _ = states(pipe, given)
    rest, _ = states(pipe, {"prompt": "BREAK (a:1.2)", "prompt_weighting": False})
    np.testing.assert_allclose(hidden[:, 77:], rest, **CLOSE)


@pytest.mark.parametrize(
    "texts",
    [
        {"prompt": "a BREAK b", "negative_prompt": "c"},
        {"prompt": "a", "negative_prompt": "b BREAK c"},
        {"prompt": "a", "prompt_2": "b BREAK c", "negative_prompt": "d"},
        {"prompt": "a", "negative_prompt": "", "negative_prompt_2": "b BREAK c"},
    ],
)
def test_shorter_prompts_are_continued_with_the_empty_one(pipe, texts):
    positive, negative = states(pipe, texts, guidance=True)
    assert positive[0].shape == negative[0].shape == (1, 2 * 77, 96)
    width = pipe.model.networks.text_encoder.config.hidden_size
    columns = {
        "prompt": positive[0][..., :width],
        "prompt_2": positive[0][..., width:],
        "negative_prompt": negative[0][..., :width],
        "negative_prompt_2": negative[0][..., width:],
    }
    empty, _ = states(pipe, "")
    for name, found in columns.items():
        own = texts.get(name, texts[name.removesuffix("_2")])
        part = slice(width, None) if name.endswith("_2") else slice(width)
        is_empty = np.allclose(found[:, 77:], empty[..., part], **CLOSE)
        assert is_empty == ("BREAK" not in own), name


@pytest.mark.slow
def test_a_batch_of_other_lengths_and_weights(pipe, sample):
    prompts = [f"{FULL} (rain:1.4)", "a (man:0.5)", "film noir", ""]
    hidden, pooled = states(pipe, *prompts)
    for i, prompt in enumerate(prompts):
        alone, alone_pooled = states(pipe, prompt)
        np.testing.assert_allclose(hidden[i, : alone.shape[1]], alone[0], **CLOSE)
        np.testing.assert_allclose(pooled[i], alone_pooled[0], **CLOSE)
    people = [person(i) for i in range(4)]
    together = sample(prompt=prompts, face=people, seed=range(4), negative_prompt="x").latents
    alone = sample(prompt=prompts[0], face=people[0], negative_prompt="x").latents
    np.testing.assert_allclose(together[0], alone[0], atol=1e-4)


def test_prompts_of_other_lengths_in_a_batch_are_reported(pipe, caplog):
    caplog.set_level(logging.WARNING)
    long, short = {"prompt": "a BREAK b"}, {"prompt": "a"}
    states(pipe, long, long)
    # Their other half is long.
    states(pipe, long, short | {"negative_prompt": "a BREAK b"}, guidance=True)
    assert not caplog.messages
    states(pipe, long, short)
    assert caplog.messages == [
        "the prompts of a batch take 1 to 2 chunks: the shorter ones are continued with the empty "
        "prompt, so that their images differ from those that they have by themselves"
    ]


def given(hidden, pooled, which=""):
    return {f"{which}prompt_embeds": hidden[0], f"{which}pooled_prompt_embeds": pooled[0]}


@pytest.mark.parametrize("which", ["", "negative_"])
@pytest.mark.parametrize("kind", ["text and states", "states and text", "both states"])
def test_the_shorter_of_text_and_states_is_continued(pipe, which, kind):
    """`which` is the longer one."""
    prompts = {"": "a", "negative_": "a", which: "b BREAK c"}
    wanted = {name: states(pipe, prompt) for name, prompt in prompts.items()}
    requests = {}
    for name in prompts:
        text = {f"{name}prompt": prompts[name]}
        as_text = kind == ("states and text" if name else "text and states")
        requests |= text if as_text else given(*wanted[name], name)
    found = dict(zip(prompts, states(pipe, requests, guidance=True), strict=True))
    empty, _ = states(pipe, "")
    for name, (hidden, pooled) in wanted.items():
        rest = [] if name == which else [empty]
        continued = np.concatenate([hidden, *rest], axis=1)
        np.testing.assert_allclose(found[name][0], continued, **CLOSE)
        np.testing.assert_allclose(found[name][1], pooled, **CLOSE)


def test_states_of_any_length_stand_alone(pipe, sample):
    random = np.random.default_rng(0)
    hidden, pooled = random.standard_normal((60, 96)), random.standard_normal(64)
    both = given([hidden], [pooled]) | given([-hidden], [pooled], "negative_")
    for request in (both, given([hidden], [pooled])):
        assert np.isfinite(sample(prompt=None, num_inference_steps=1, **request).latents).all()
    with pytest.raises(InputError, match="prompts have 60 and 77 tokens"):
        sample(prompt=None, negative_prompt="a", **given([hidden], [pooled]))


def test_states_of_a_batch_may_differ_in_length(pipe):
    short, long = states(pipe, "a"), states(pipe, "b BREAK c")
    hidden, _ = states(pipe, given(*short), given(*long))
    np.testing.assert_allclose(hidden[0, :77], short[0][0], **CLOSE)
    np.testing.assert_array_equal(hidden[1], long[0][0])


def test_each_number_of_chunks_compiles_once(sample, compiled_by):
    once = {"jit(encode_text)", "jit(prepare)", "jit(denoise)"}
    assert set(compiled_by(sample, prompt="a BREAK b BREAK c")) <= once
    for prompts in (
        {"prompt": f"{FULL}{FULL}snow", "negative_prompt": "(x:0.5)"},
        {"prompt": "a", "negative_prompt": "(a:0.2) BREAK b BREAK (c)"},
    ):
        assert compiled_by(sample, **prompts) == []


def test_the_number_of_chunks_is_reported_once(pipe, caplog):
    text._report.cache_clear()
    caplog.set_level(logging.INFO)
    for prompt in ("a", "a BREAK b", "b BREAK c", f"{FULL}d", FULL):
        states(pipe, prompt)
    assert caplog.messages == [
        "a prompt takes 2 chunks of 75 tokens: each number of chunks compiles once"
    ]


@pytest.mark.slow
@pytest.mark.slow
def test_a_mesh_takes_weights_and_chunks(folder, sample, compiled_by):
    mesh = sampling_mesh(guidance=2, devices=jax.devices()[:2])
    pipe = InstantIDPipeline.load(sdxl=folder, instantid=folder, mesh=mesh)
    asked = {"prompt": "a (man:1.3) BREAK snow", "negative_prompt": "b"}
    wanted = sample(**asked).latents
    np.testing.assert_allclose(sample(pipe=pipe, **asked).latents, wanted, atol=1e-4)
    others = ({"prompt": "a man BREAK b"}, {"prompt": "[a] BREAK (b:0)", "negative_prompt": "(x)"})
    for prompts in others:
        assert compiled_by(sample, pipe=pipe, **asked | prompts) == []


def test_a_style_is_its_words(sample):
    style = Style("mine", "oil painting of {prompt}", "photo")
    styled = sample(prompt=["a man", "a cat"], negative_prompt="hat", style=style)
    prompts = ["oil painting of a man", "oil painting of a cat"]
    plain = sample(prompt=prompts, negative_prompt="photo, hat")
    assert_same([styled.latents], [plain.latents])
    requests = [provenance.request for provenance in styled.provenance]
    assert [request.prompt for request in requests] == prompts
    assert {request.negative_prompt for request in requests} == {"photo, hat"}
    with pytest.raises(InputError, match="did you mean Film Noir"):
        sample(style="film noire")
