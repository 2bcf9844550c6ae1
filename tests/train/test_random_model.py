"""The random model: in the layout of published ones."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from instantid_jax.errors import InputError
from instantid_jax.weights.layouts import find_model
from train import random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_model.random_model(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tensors(folder):
    return {
        f"{file.relative_to(folder)}:{name}": value
        for file in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def test_it_is_found_like_a_published_model(folder):
    model = find_model(str(folder), str(folder))
    assert model.force_zeros_for_empty_prompt
    assert model.scheduler["_class_name"] == "EulerDiscreteScheduler"
    resampler = model.components["image_proj"].network.config
    assert (resampler.embedding_dim, resampler.num_queries) == (512, 16)


def test_it_is_small(tensors):
    assert sum(value.nbytes for value in tensors.values()) < 60e6


def test_no_layer_is_zero_and_none_changes_the_scale(tensors):
    for name, value in tensors.items():
        assert value.dtype == np.float32
        if value.ndim == 1:
            assert set(np.unique(value)) == {1.0 if name.endswith("weight") else 0.0}, name
            continue
        if name.endswith("latents"):
            inputs = value.shape[-1]
        else:  # torch has the outputs first; embeddings are rows of inputs too
            inputs = np.prod(value.shape[1:])
        gain = value.std() * np.sqrt(inputs)
        assert abs(gain - 1) < 3 / np.sqrt(value.size), name


def test_no_two_layers_are_alike(tensors):
    drawn = [value.ravel()[:16].tobytes() for value in tensors.values() if value.ndim > 1]
    assert len(set(drawn)) == len(drawn)


def test_it_is_the_same_every_time(folder, tensors, tmp_path):
    again = random_model.random_model(tmp_path)
    for file in sorted(folder.rglob("*.*")):
        assert (again / file.relative_to(folder)).read_bytes() == file.read_bytes()


def test_it_is_made_once(folder, monkeypatch):
    monkeypatch.setattr(random_model, "_write", lambda _: pytest.fail("made again"))
    assert random_model.random_model(folder.parent) == folder


def test_nothing_is_left_when_making_it_is_interrupted(tmp_path, monkeypatch):
    def interrupted(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(random_model, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        random_model.random_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_make_it_first(tmp_path, monkeypatch):
    made = tmp_path / f"untrained-{random_model.VERSION}"

    def overtaken(folder):
        (made / "unet").mkdir(parents=True)

    monkeypatch.setattr(random_model, "_write", overtaken)
    assert random_model.random_model(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == [made.name]


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/cache cannot be written .*XDG_CACHE_HOME"):
        random_model.random_model(tmp_path / "file" / "cache")


def test_its_vocabulary_takes_any_text(folder):
    """CLIP's byte alphabet, and <|endoftext|> as the highest id, where the text is pooled."""
    vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    assert len(vocabulary) == random_model.VOCABULARY == 2 * 256 + 2
    assert sorted(vocabulary.values()) == list(range(random_model.VOCABULARY))
    assert vocabulary["<|endoftext|>"] == max(vocabulary.values())
