import json
import logging

import numpy as np
import pytest

from instantid_jax import embedded
from instantid_jax.errors import InputError
from instantid_jax.prompt import PromptTokenizer, tokenize
from train.random_model import VOCABULARY, random_model

# The random model has two tokens for every byte: within a word, and at its end.
START, END = VOCABULARY - 2, VOCABULARY - 1


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
    first, second = tokenize((tokenizer, tokenizer), ([long, long], [long, "short"]))
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
    tokenize((word_tokenizer, word_tokenizer), ([prompt], [prompt]))
    assert [record.message for record in caplog.records] == [line]


@pytest.mark.parametrize("prompt", ["", "a, 2026!", "Snow at Davos", "t-shirt"])
def test_does_not_report_a_prompt_with_a_known_word(word_tokenizer, prompt):
    assert word_tokenizer.unknown([prompt]) == []


def test_reports_no_unknown_words_for_a_vocabulary_of_bytes(tokenizer):
    assert tokenizer.unknown(["film noir"]) == []


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
