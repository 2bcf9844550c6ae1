"""Names of embeddings in prompts."""

import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.inversion import Embedding, Embeddings

NAMES = ("style", "style-v2", "Bad.Hands_5", "<s0>", "<s1>", "my cat", "Zu\u0308rich", "a+b")
FOUND = {
    "style": ["<style>"],
    "a style, b": ["a ", "<style>", ", b"],
    "style-v2 style": ["<style-v2>", " ", "<style>"],
    "STYLE Style-V2": ["<style>", " ", "<style-v2>"],
    "(style:1.2)": ["(", "<style>", ":1.2)"],
    "style. Style's": ["<style>", ". ", "<style>", "'s"],
    "style... -style-": ["<style>", "... -", "<style>", "-"],
    "bad.hands_5,bad.hands_5": ["<Bad.Hands_5>", ",", "<Bad.Hands_5>"],
    "<s0><S1>man": ["<<s0>>", "<<s1>>", "man"],
    "my cat, a+b.": ["<my cat>", ", ", "<a+b>", "."],
    "Z\u00fcrich in zu\u0308rich": ["<Z\u00fcrich>", " in ", "<Z\u00fcrich>"],
    "embedding:style, embedding:<s0>": ["<style>", ", ", "<<s0>>"],
    "Embedding:style-v2.safetensors style.pt": ["<style-v2>", " ", "<style>"],
    # Parts of other words, and other names.
    "styles astyle style2 style_a": None,
    "style-v3 film-style style.v2 no.style": None,
    "bad_hands_5 s0 < s0>": None,
    "embedding:styles style.ptx": None,
    "": None,
}


def embeddings(*names: str) -> Embeddings:
    vectors = (np.zeros((2, 3)), np.zeros((2, 5)))
    return Embeddings((3, 5), [Embedding(name, vectors, "file") for name in names])


def shown(pieces) -> list[str]:
    return [each if isinstance(each, str) else f"<{each.name}>" for each in pieces]


@pytest.mark.parametrize("prompt", FOUND)
def test_names_are_found_as_whole_words(prompt):
    wanted = [prompt] if FOUND[prompt] is None else FOUND[prompt]
    # In any order of the files.
    assert shown(embeddings(*NAMES).split(prompt)) == wanted
    assert shown(embeddings(*reversed(NAMES)).split(prompt)) == wanted


@pytest.mark.parametrize("prompt", FOUND)
def test_without_embeddings_a_prompt_is_itself(prompt):
    assert embeddings().split(prompt) == [prompt]


def test_a_name_after_embedding_that_is_not_there_is_reported():
    some = embeddings("style")
    prompts = [some.split("a (embedding:other:1.2), embedding:style"), some.split("Embedding:x.pt")]
    lines = some.unresolved(prompts)
    assert [line.split(",")[0] for line in lines] == [
        "the prompt has embedding:other:1.2",
        "the prompt has embedding:x.pt",
    ]
    assert all(line.endswith("the embeddings are style: it is read as text") for line in lines)
    assert embeddings().unresolved([["a face embedding: raw"]]) == []


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\u200b"])
def test_a_name_can_be_read(name):
    with pytest.raises(InputError, match="cannot be the name of an embedding; give"):
        embeddings(name)


def test_as_many_names_as_a_folder_may_hold():
    names = [f"name{i}" for i in range(1500)]
    pieces = embeddings(*names).split("name3 and name1499 and name1500")
    assert shown(pieces) == ["<name3>", " and ", "<name1499>", " and name1500"]
