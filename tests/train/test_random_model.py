"""The random model has the layout of published models."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from instantid_jax.errors import InputError
from instantid_jax.pipeline.sources import Sources
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


def test_loads_like_a_published_model(folder):
    model = Sources(sdxl=str(folder), instantid=str(folder)).find()
    assert model.force_zeros_for_empty_prompt
    assert model.scheduler["_class_name"] == "EulerDiscreteScheduler"
    resampler = model.components["image_proj"].network.config
    assert (resampler.embedding_dim, resampler.num_queries) == (512, 16)


def test_is_small(tensors):
    assert sum(value.nbytes for value in tensors.values()) < 60e6


def test_layers_are_nonzero_and_preserve_scale(tensors):
    for name, value in tensors.items():
        assert value.dtype == np.float32
        if value.ndim == 1:
            assert set(np.unique(value)) == {1.0 if name.endswith("weight") else 0.0}, name
            continue
        if name.endswith("latents"):
            inputs = value.shape[-1]
        else:  # torch puts outputs first; the rows of an embedding are inputs
            inputs = np.prod(value.shape[1:])
        gain = value.std() * np.sqrt(inputs)
        assert abs(gain - 1) < 3 / np.sqrt(value.size), name


def test_layers_differ(tensors):
    drawn = [value.ravel()[:16].tobytes() for value in tensors.values() if value.ndim > 1]
    assert len(set(drawn)) == len(drawn)


def test_is_deterministic(folder, tensors, tmp_path):
    again = random_model.random_model(tmp_path)
    for file in sorted(folder.rglob("*.*")):
        assert (again / file.relative_to(folder)).read_bytes() == file.read_bytes()


def test_is_written_once(folder, monkeypatch):
    monkeypatch.setattr(random_model, "_write", lambda _: pytest.fail("made again"))
    assert random_model.random_model(folder.parent) == folder


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(random_model, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        random_model.random_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_write_it_first(tmp_path, monkeypatch):
    made = tmp_path / f"untrained-{random_model.VERSION}"

    def overtaken(folder):
        (made / "unet").mkdir(parents=True)

    monkeypatch.setattr(random_model, "_write", overtaken)
    assert random_model.random_model(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == [made.name]


def test_error_names_an_unwritable_cache(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/cache cannot be written .*XDG_CACHE_HOME"):
        random_model.random_model(tmp_path / "file" / "cache")


def test_vocabulary_covers_any_text(folder):
    """It has CLIP's byte alphabet, and <|endoftext|> as the highest id, as pooling requires."""
    vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    assert len(vocabulary) == random_model.VOCABULARY == 2 * 256 + 2
    assert sorted(vocabulary.values()) == list(range(random_model.VOCABULARY))
    assert vocabulary["<|endoftext|>"] == max(vocabulary.values())
