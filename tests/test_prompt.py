import json
import logging

import numpy as np
import pytest

from instantid_jax import embedded
from instantid_jax.errors import InputError
from instantid_jax.inversion import Embedding, Embeddings
from instantid_jax.prompt import VECTOR, PromptTokenizer, tokenize
from train.random_model import VOCABULARY, random_model

# The random model has two tokens for every byte: within a word, and at its end.
START, END = VOCABULARY - 2, VOCABULARY - 1
WIDTHS = (3, 5)
NONE = Embeddings(WIDTHS)


def embedding(name: str, rows: int) -> Embedding:
    first, second = (np.random.default_rng(rows).standard_normal((rows, w)) for w in WIDTHS)
    return Embedding(name, (first, second), f"{name}.safetensors")


SOME = Embeddings(WIDTHS, [embedding("style-v2", 3), embedding("moodily", 1)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("cache")) / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer(folder):
    return PromptTokenizer(folder, positions=77, vocabulary=VOCABULARY)


def test_ids_have_start_end_and_padding(tokenizer):
    ids = tokenizer(["ab", "a", ""])
    assert ids.shape == (3, 77) and ids.dtype == np.int32
    a, b_at_the_end = ids[0, 1:3]
    assert ids[0].tolist() == [START, a, b_at_the_end] + [END] * 74
    assert ids[1].tolist()[2:] == [END] * 75 and ids[1, 1] != a
    assert ids[2].tolist() == [START] + [END] * 76


def test_normalizes_text_like_clip(tokenizer):
    """Lower case, single spaces between words; bytes of any script have tokens."""
    np.testing.assert_array_equal(tokenizer(["A  Man\n"]), tokenizer(["a man"]))
    assert not np.array_equal(tokenizer(["a man"]), tokenizer(["aman"]))
    assert END not in tokenizer(["雨の中"])[0, 1:10]


def test_truncates_a_long_prompt_and_quotes_the_lost_text(tokenizer):
    kept, lost = "abcde " * 15, "fghij klm"
    (line,) = tokenizer.lost([kept + lost, "short"])
    assert line == f"the prompt has {75 + 8 + 2} tokens and is truncated to 77; lost: {lost!r}"
    ids = tokenizer([kept + lost])[0]
    np.testing.assert_array_equal(ids, tokenizer([kept])[0])
    assert tokenizer.lost([kept]) == []


def test_warns_once_of_lost_text(tokenizer, caplog):
    long = "abcde " * 15 + "lost"
    prompts = ([long, long], [long, "short"])
    first, second = (each.ids for each in tokenize((tokenizer, tokenizer), prompts, NONE))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "lost: 'lost'" in caplog.text
    np.testing.assert_array_equal(first[0], second[0])


@pytest.fixture(scope="module")
def word_tokenizer():
    """The embedded model's tokenizer, which knows the captions' words."""
    return PromptTokenizer(embedded.SDXL / "tokenizer", positions=40, vocabulary=700)


@pytest.mark.parametrize("prompt", ["film noir, rain", "Zürich 2026!", "midnight", "雨の中"])
def test_reports_a_prompt_of_unknown_words(word_tokenizer, prompt, caplog):
    (line,) = word_tokenizer.unknown(["a person in the snow", prompt])
    assert line.startswith(f"the model's vocabulary has none of the words of {prompt!r}")
    tokenize((word_tokenizer, word_tokenizer), ([prompt], [prompt]), NONE)
    assert [record.message for record in caplog.records] == [line]


@pytest.mark.parametrize("prompt", ["", "a, 2026!", "Snow at Davos", "t-shirt"])
def test_does_not_report_a_prompt_with_a_known_word(word_tokenizer, prompt):
    assert word_tokenizer.unknown([prompt]) == []


def test_reports_no_unknown_words_for_a_vocabulary_of_bytes(tokenizer):
    assert tokenizer.unknown(["film noir"]) == []


def test_an_embedding_takes_as_many_positions_as_it_has_vectors(tokenizer):
    prompts = (["a style-v2, moodily lit", "a"], ["moodily", "moodily moodily"])
    first, second = tokenize((tokenizer, tokenizer), prompts, SOME)
    plain = tokenizer(["a", ", lit"])
    wanted = [START, plain[0, 1], *[VECTOR] * 3, plain[1, 1], VECTOR, *plain[1, 2:]]
    np.testing.assert_array_equal(first.ids[0], wanted[:77])
    np.testing.assert_array_equal(first.ids[1], plain[0])
    moodily, style = SOME.all[1], SOME.all[0]
    np.testing.assert_array_equal(first.vectors[0, 2:5], np.float32(style.vectors[0]))
    np.testing.assert_array_equal(first.vectors[0, 6], np.float32(moodily.vectors[0][0]))
    for tokens in (first, second):
        np.testing.assert_array_equal(tokens.vectors.any(axis=-1), tokens.ids == VECTOR)
    np.testing.assert_array_equal(second.ids[1, :4], [START, VECTOR, VECTOR, END])
    np.testing.assert_array_equal(second.vectors[1, 2], np.float32(moodily.vectors[1][0]))


def test_ids_are_those_of_the_tokenizer_where_no_name_stands(tokenizer):
    prompts = ["a  Man\n", "", "mood, style", "x" * 200]
    for tokens in tokenize((tokenizer, tokenizer), (prompts, prompts), SOME):
        np.testing.assert_array_equal(tokens.ids, tokenizer(prompts))
        assert not tokens.vectors.any()


def test_an_embedding_is_truncated_as_tokens_are(tokenizer, caplog):
    prompt = f"{'a ' * 73}style-v2 ab moodily c"
    tokens, _ = tokenize((tokenizer, tokenizer), ([prompt], ["a"]), SOME)
    assert list(tokens.ids[0, 74:]) == [VECTOR, VECTOR, END]
    assert caplog.messages == [
        "the prompt has 82 tokens and is truncated to 77; lost: 'style-v2 ab moodily c'"
    ]


def test_names_are_known_words(word_tokenizer, caplog):
    some = Embeddings(WIDTHS, [embedding("zürich", 1)])
    for prompt in ("zürich", "Zürich midnight"):
        tokenize((word_tokenizer, word_tokenizer), ([prompt], [prompt]), some)
    assert not caplog.messages


def test_warns_of_an_embedding_that_is_not_there(tokenizer, caplog):
    prompts = ["a embedding:nothing.pt, embedding:moodily"]
    tokenize((tokenizer, tokenizer), (prompts, prompts), SOME)
    assert caplog.messages == [
        "the prompt has embedding:nothing.pt, and the embeddings are moodily, style-v2: it is "
        "read as text"
    ]


def test_text_encoder_limits_the_length(folder):
    """Also if the tokenizer's settings name no limit; transformers then uses 10**30."""
    settings = folder / "tokenizer_config.json"
    before = settings.read_text()
    try:
        settings.write_text(
            json.dumps({k: v for k, v in json.loads(before).items() if k != "model_max_length"})
        )
        tokenizer = PromptTokenizer(folder, positions=9, vocabulary=VOCABULARY)
    finally:
        settings.write_text(before)
    assert tokenizer.length == 9 and tokenizer(["a b c d e f g h i"]).shape == (1, 9)
    assert "lost: 'h i'" in tokenizer.lost(["a b c d e f g h i"])[0]


def test_rejects_a_tokenizer_of_another_text_encoder(folder):
    with pytest.raises(InputError, match=f"has {VOCABULARY} tokens, its text encoder knows 100"):
        PromptTokenizer(folder, positions=77, vocabulary=100)


def test_rejects_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(InputError, match="holds no tokenizer: expected vocab"):
        PromptTokenizer(tmp_path, positions=77, vocabulary=VOCABULARY)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_rejects_a_damaged_tokenizer(tmp_path, text):
    (tmp_path / "vocab.json").write_text(text)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(InputError, match="holds no readable CLIP tokenizer") as error:
        PromptTokenizer(tmp_path, positions=77, vocabulary=VOCABULARY)
    assert "\n" not in str(error.value)
