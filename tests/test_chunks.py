"""Prompts in chunks: where they are divided, and what each position holds."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instantid_jax import embedded
from instantid_jax.chunks import Run, make_chunks
from instantid_jax.errors import InputError
from instantid_jax.inversion import Embedding, Embeddings
from instantid_jax.prompt import VECTOR, PromptTokenizer
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
def tokenizer(tmp_path_factory):
    folder = random_model(tmp_path_factory.mktemp("cache")) / "tokenizer"
    return PromptTokenizer(folder, positions=77, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def word_tokenizer():
    """The embedded model's tokenizer, which knows the captions' words."""
    return PromptTokenizer(embedded.SDXL / "tokenizer", positions=40, vocabulary=700)


def chunks(tokenizer, *prompts, embeddings=NONE):
    """Chunks for the first text encoder. A prompt is text, or parts of runs."""
    parts = [[[Run(each, 1.0)]] if isinstance(each, str) else each for each in prompts]
    return make_chunks((tokenizer, tokenizer), (parts, parts), embeddings)[0]


def texts(tokenizer, prompt, embeddings=NONE) -> list[list[int]]:
    """The tokens of a prompt's chunks, padding left out."""
    made = chunks(tokenizer, prompt, embeddings=embeddings)
    rows = made.tokens(*made.counts).ids[0].tolist()
    return [row[1 : row.index(END)] for row in rows]


def words(tokenizer, *parts: str) -> list[list[int]]:
    return [tokenizer.tokens(part) for part in parts]


def test_a_short_prompt_is_what_the_tokenizer_gives(tokenizer):
    prompts = ["a  Man\n", "", "mood, style", "(a:1.2)", "abcde " * 15]
    for some in (NONE, SOME):
        tokens = chunks(tokenizer, *prompts, embeddings=some).tokens(1)
        np.testing.assert_array_equal(tokens.ids[:, 0], tokenizer(prompts))
        assert tokens.ids.dtype == np.int32 and not tokens.vectors.any()


@given(prompt=st.text(max_size=30))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_short_prompt_is_what_the_tokenizer_gives(tokenizer, prompt):
    if len(tokenizer.tokens(prompt)) <= 75:
        tokens = chunks(tokenizer, prompt).tokens(1)
        np.testing.assert_array_equal(tokens.ids[:, 0], tokenizer([prompt]))


def test_a_full_chunk_is_followed_by_another(tokenizer):
    full = "abcde " * 15
    assert texts(tokenizer, full) == words(tokenizer, full)
    assert texts(tokenizer, f"{full}f") == words(tokenizer, full, "f")
    assert texts(tokenizer, full * 4) == words(tokenizer, *[full] * 4)


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        # The comma stays, and up to 19 tokens after it move.
        ("a " * 60 + ", " + "b " * 15, ["a " * 60 + ",", "b " * 15]),
        ("a " * 55 + ", " + "b " * 20, ["a " * 55 + ",", "b " * 20]),
        ("a " * 54 + ", " + "b " * 21, ["a " * 54 + ", " + "b " * 20, "b"]),
        # The last comma counts, and one that does not fit begins the next chunk.
        ("a, " * 30 + "b " * 16, ["a, " * 30, "b " * 16]),
        ("a " * 75 + ", b", ["a " * 75, ", b"]),
        ("a " * 73 + ", b , c", ["a " * 73 + ", b", ", c"]),
        ("a " * 74 + ", b", ["a " * 74 + ",", "b"]),
        # In the second chunk, only its own commas count.
        (", " + "a " * 150, [", " + "a " * 74, "a " * 75, "a"]),
    ],
)
def test_words_after_the_last_comma_stay_together(tokenizer, prompt, parts):
    assert texts(tokenizer, prompt) == words(tokenizer, *parts)


@given(prompt=st.lists(st.sampled_from(["a", ",", "style-v2", "moodily"]), max_size=120))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_are_the_prompt_divided(tokenizer, prompt):
    """Nothing is lost, nothing is too long, no embedding is split, no chunk is needlessly short."""
    (made,) = chunks(tokenizer, " ".join(prompt), embeddings=SOME).prompts
    (a,), (comma,) = tokenizer.tokens("a"), tokenizer.tokens(",")
    sizes = {"a": [a], ",": [comma], "style-v2": [VECTOR] * 3, "moodily": [VECTOR]}
    tokens = list(itertools.chain.from_iterable(sizes[word] for word in prompt))
    assert [each.token for chunk in made for each in chunk] == tokens
    assert all(0 < len(chunk) <= 75 for chunk in made)
    assert all(len(chunk) >= 75 - 19 - 2 for chunk in made[:-1])
    ends = set(itertools.accumulate(len(sizes[word]) for word in prompt))
    assert set(itertools.accumulate(map(len, made))) <= ends


def test_parts_have_chunks_of_their_own_if_they_have_tokens(tokenizer):
    parts = [[], [Run("a", 1.0)], [Run(" ", 1.0)], [Run("b", 1.2), Run("c", 1.0)]]
    assert texts(tokenizer, parts) == words(tokenizer, "a", "b c")
    assert texts(tokenizer, []) == words(tokenizer, "")


def test_runs_are_tokenized_one_by_one(tokenizer):
    runs = [[Run("a ma", 1.0), Run("n", 1.5), Run(", rain", -0.5)]]
    made = chunks(tokenizer, runs)
    np.testing.assert_array_equal(made.tokens(1).ids[0, 0], tokenizer(["a ma n, rain"])[0])
    weights = made.weights(1)
    wanted = [1, *[1.0] * 3, 1.5, *[-0.5] * 5, *[1] * 67]
    assert weights.dtype == np.float32 and weights[0, 0].tolist() == wanted


def test_missing_chunks_are_the_empty_prompts(tokenizer):
    made = chunks(tokenizer, "a " * 80, "b", [])
    assert made.counts == [2, 1, 1]
    tokens = made.tokens(3)
    assert tokens.ids.shape == (3, 3, 77) and tokens.vectors.shape == (3, 3, 77, WIDTHS[0])
    empty = tokenizer([""])[0]
    for prompt, chunk in ((0, 2), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)):
        np.testing.assert_array_equal(tokens.ids[prompt, chunk], empty)
    assert (made.weights(3) == 1).all()


def test_a_prompt_of_too_many_chunks_is_refused(tokenizer):
    assert chunks(tokenizer, "a " * 300).counts == [4]
    with pytest.raises(InputError) as error:
        chunks(tokenizer, "a", "a " * 301)
    assert str(error.value) == (
        "the prompt has 301 tokens and takes 5 chunks of 75: expected 4 chunks at most; shorten it"
    )
    with pytest.raises(InputError, match="has 5 tokens and takes 5 chunks"):
        chunks(tokenizer, [[Run("a", 1.0)]] * 5)


def test_an_embedding_takes_as_many_positions_as_it_has_vectors(tokenizer):
    prompts = (["a style-v2, moodily lit", "a"], ["moodily", "moodily moodily"])
    parts = tuple([[[Run(text, 1.0)]] for text in each] for each in prompts)
    first, second = (each.tokens(1) for each in make_chunks((tokenizer,) * 2, parts, SOME))
    plain = tokenizer(["a", ", lit"])
    wanted = [START, plain[0, 1], *[VECTOR] * 3, plain[1, 1], VECTOR, *plain[1, 2:]]
    np.testing.assert_array_equal(first.ids[0, 0], wanted[:77])
    np.testing.assert_array_equal(first.ids[1, 0], plain[0])
    moodily, style = SOME.all[1], SOME.all[0]
    np.testing.assert_array_equal(first.vectors[0, 0, 2:5], np.float32(style.vectors[0]))
    np.testing.assert_array_equal(first.vectors[0, 0, 6], np.float32(moodily.vectors[0][0]))
    for tokens in (first, second):
        np.testing.assert_array_equal(tokens.vectors.any(axis=-1), tokens.ids == VECTOR)
    np.testing.assert_array_equal(second.ids[1, 0, :4], [START, VECTOR, VECTOR, END])
    np.testing.assert_array_equal(second.vectors[1, 0, 2], np.float32(moodily.vectors[1][0]))


def test_an_embedding_moves_as_a_whole(tokenizer):
    found = texts(tokenizer, "a " * 73 + "style-v2 b", SOME)
    assert found == [tokenizer.tokens("a " * 73), [VECTOR] * 3 + tokenizer.tokens("b")]
    found = texts(tokenizer, "a " * 70 + ", b b style-v2", SOME)
    assert found == [tokenizer.tokens("a " * 70 + ","), tokenizer.tokens("b b") + [VECTOR] * 3]
    # What follows the comma is left where it would not fit with the embedding.
    large = Embeddings(WIDTHS, [embedding("large", 74)])
    found = texts(tokenizer, "a, b c large", large)
    assert found == [tokenizer.tokens("a, b c"), [VECTOR] * 74]


def test_a_weight_is_that_of_all_vectors(tokenizer):
    made = chunks(tokenizer, [[Run("a", 1.0), Run("style-v2", 1.2)]], embeddings=SOME)
    expected = np.float32([1, 1, 1.2, 1.2, 1.2, 1])
    np.testing.assert_array_equal(made.weights(1)[0, 0, :6], expected)


def test_an_embedding_larger_than_a_chunk_is_refused(tokenizer):
    large = Embeddings(WIDTHS, [embedding("large", 76)])
    with pytest.raises(InputError, match="embedding large has 76 vectors, a prompt's chunk takes"):
        chunks(tokenizer, "a large", embeddings=large)


@pytest.mark.parametrize("prompt", ["film noir, rain", "midnight", "雨の中"])
def test_warns_once_of_a_prompt_of_unknown_words(word_tokenizer, prompt, caplog):
    chunks(word_tokenizer, prompt, prompt)
    (line,) = caplog.messages
    assert line.startswith(f"the model's vocabulary has none of the words of {prompt!r}")


def test_words_are_known_whatever_they_weigh(word_tokenizer, caplog):
    chunks(word_tokenizer, [[Run("midnight", 1.2), Run(" in the snow", 1.0)]])
    assert not caplog.messages
    chunks(word_tokenizer, [[Run("midnight", 1.2)], [Run("noir", 1.0)]])
    assert "none of the words of 'midnight noir'" in caplog.text


def test_names_are_known_words(word_tokenizer, caplog):
    some = Embeddings(WIDTHS, [embedding("zürich", 1)])
    chunks(word_tokenizer, "zürich", "Zürich midnight", embeddings=some)
    assert not caplog.messages


def test_warns_of_an_embedding_that_is_not_there(tokenizer, caplog):
    runs = [[Run("a", 1.0), Run("embedding:nothing.pt", 1.2), Run(", embedding:moodily", 1.0)]]
    chunks(tokenizer, runs, embeddings=SOME)
    assert caplog.messages == [
        "the prompt has embedding:nothing.pt, and the embeddings are moodily, style-v2: it is "
        "read as text"
    ]
