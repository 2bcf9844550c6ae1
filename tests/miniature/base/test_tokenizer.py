"""The miniature's tokenizer, loaded by the pipeline's class."""

import re

import numpy as np
import pytest

from instantid_jax.json_files import read_json
from instantid_jax.prompt import PromptTokenizer
from miniature.base.tokenizer import POSITIONS, captions, write_tokenizer
from miniature.drawing.group import group_caption, random_group
from miniature.drawing.scene import random_scene


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tokenizer"
    write_tokenizer(folder)
    size = len(read_json(folder / "vocab.json"))
    return PromptTokenizer(folder, positions=POSITIONS, vocabulary=size), size


def words(caption):
    return re.sub("([-,:;])", r" \1 ", caption).split()


def test_each_word_of_a_caption_is_one_token(written):
    tokenizer, size = written
    for seed in range(100):
        caption = random_scene(np.random.default_rng(seed)).caption
        ids = tokenizer([caption])[0]
        assert ids[0] == size - 2 and np.flatnonzero(ids == size - 1)[0] == 1 + len(words(caption))


def test_captions_of_groups_fit_and_have_a_token_per_word(written):
    tokenizer, size = written
    for seed in range(50):
        people = random_group(np.random.default_rng(seed), 3, (128, 128))
        caption = group_caption([scene for _, scene in people])
        ids = tokenizer([caption])[0]
        assert np.flatnonzero(ids == size - 1)[0] == 1 + len(words(caption))
        assert tokenizer.kept(caption) == caption


def test_different_words_are_different_tokens(written):
    tokenizer, _ = written
    every = sorted({word for caption in captions() for word in words(caption)})
    ids = tokenizer(every)[:, 1]
    assert len(set(ids.tolist())) == len(every) > 60


def test_splits_other_text_into_letters(written):
    tokenizer, size = written
    one, other = tokenizer(["Zürich 2026!", "zürich 2027!"])
    assert (one != other).any() and (one[1:10] < size - 2).all()


def test_end_of_text_is_the_highest_token(written):
    tokenizer, size = written
    ids = tokenizer([""])[0]
    assert ids[0] == size - 2 and (ids[1:] == size - 1).all()
