import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from instantid_jax import embedded
from instantid_jax.errors import InputError
from instantid_jax.prompt import PromptTokenizer
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


def test_threads_share_a_tokenizer(tokenizer):
    """Padded ids and bare tokens set it up differently."""
    padded, tokens = tokenizer(["a man"]), tokenizer.tokens("a man")

    def call(i: int):
        return tokenizer(["a man"]) if i % 2 else tokenizer.tokens("a man")

    with ThreadPoolExecutor(8) as executor:
        for i, found in enumerate(executor.map(call, range(2000))):
            np.testing.assert_array_equal(found, padded if i % 2 else tokens)


def test_normalizes_text_like_clip(tokenizer):
    """Lower case, single spaces between words; bytes of any script have tokens."""
    np.testing.assert_array_equal(tokenizer(["A  Man\n"]), tokenizer(["a man"]))
    assert not np.array_equal(tokenizer(["a man"]), tokenizer(["aman"]))
    assert END not in tokenizer(["雨の中"])[0, 1:10]


def test_truncates_a_long_prompt(tokenizer):
    kept = "abcde " * 15
    assert len(tokenizer.tokens(kept)) == 75
    np.testing.assert_array_equal(tokenizer([kept + "fghij"]), tokenizer([kept]))


@pytest.mark.parametrize("text", ["", " A  Man\n", "abcde " * 15, "雨の中", "a <|endoftext|> b"])
def test_a_row_of_tokens_is_what_the_text_gives(tokenizer, text):
    np.testing.assert_array_equal(tokenizer.row(tokenizer.tokens(text)), tokenizer([text])[0])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("a  man ", "a  man "),
        ("abcde " * 15, "abcde " * 15),
        ("abcde " * 15 + "fghij", "abcde " * 15),
        ("a" * 100, "a" * 75),
        ("雨" * 40, "雨" * 25),
    ],
)
def test_keeps_what_is_not_truncated(tokenizer, text, kept):
    assert tokenizer.kept(text) == kept


def test_knows_the_comma(tokenizer, word_tokenizer):
    for each in (tokenizer, word_tokenizer):
        assert each([", a ,b"])[0].tolist().count(each.comma) == 2


@pytest.fixture(scope="module")
def word_tokenizer():
    """The embedded model's tokenizer, which knows the captions' words."""
    return PromptTokenizer(embedded.SDXL / "tokenizer", positions=40, vocabulary=700)


@pytest.mark.parametrize("prompt", ["film noir, rain", "Zürich 2026!", "midnight", "雨の中"])
def test_reports_a_prompt_of_unknown_words(word_tokenizer, prompt):
    (line,) = word_tokenizer.unknown(["a person in the snow", prompt])
    assert line.startswith(f"the model's vocabulary has none of the words of {prompt!r}")


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
    assert tokenizer.kept("a b c d e f g h i") == "a b c d e f g "


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
