"""Textual inversions on a loaded pipeline: in which prompts they count, and what they leave."""

import jax
import numpy as np
import pytest

from instantid_jax import InstantIDPipeline
from instantid_jax.errors import InputError
from instantid_jax.pipeline.sources import Sources
from instantid_jax.request.provenance import Provenance
from instantid_jax.sharding import sampling_mesh
from instantid_jax.weights.lora.spellings import PARTS, spellings
from tests.pipeline.small_model import person
from tests.pipeline.test_compilation import compiled_by as compiled_by
from tests.weights.lora.files import write


@pytest.fixture(scope="module")
def own(folder):
    """A pipeline of its own, since its embeddings change."""
    return InstantIDPipeline.load(sdxl=folder, instantid=folder)


def vectors(model, rows: int, prefix: str = "") -> dict[str, np.ndarray]:
    random = np.random.default_rng(rows)
    networks = (model.networks.text_encoder, model.networks.text_encoder_2)
    return {
        f"{prefix}{key}": random.standard_normal((rows, network.config.hidden_size), np.float32)
        for key, network in zip(("clip_l", "clip_g"), networks, strict=True)
    }


@pytest.fixture(scope="module")
def files(own, tmp_path_factory):
    place = tmp_path_factory.mktemp("embeddings")
    return (
        write(place / "style.safetensors", vectors(own.model, 2)),
        write(place / "worst-hands.safetensors", vectors(own.model, 5)),
    )


@pytest.mark.parametrize(
    "prompts",
    [
        {"prompt": "a man, style"},
        {"prompt_2": "style"},
        {"negative_prompt": "style"},
        {"negative_prompt": "a", "negative_prompt_2": "style"},
    ],
)
def test_embeddings_count_in_prompts_that_name_them(own, files, sample, prompts):
    own.set_embeddings([])
    plain, without = sample(pipe=own).latents, sample(pipe=own, **prompts).latents
    own.set_embeddings(files)
    np.testing.assert_array_equal(sample(pipe=own).latents, plain)
    named = sample(pipe=own, **prompts).latents
    assert not np.array_equal(named, without)
    other = {name: text.replace("style", "worst-hands") for name, text in prompts.items()}
    assert not np.array_equal(sample(pipe=own, **other).latents, named)
    own.set_embeddings([])
    np.testing.assert_array_equal(sample(pipe=own, **prompts).latents, without)


def test_nothing_compiles_for_embeddings(own, files, sample, compiled_by):
    texts = {"prompt": "a man, style", "negative_prompt": "worst-hands, style"}
    own.set_embeddings([])
    sample(pipe=own, **texts)
    for chosen in ([files[0]], list(files), [f"style={files[1]}"], []):
        assert compiled_by(own.set_embeddings, embeddings=chosen) == []
        assert compiled_by(sample, pipe=own, **texts) == []
        assert compiled_by(sample, pipe=own, negative_prompt="blurry") == []


def test_a_batch_mixes_prompts_with_embeddings_and_without(own, files, sample):
    own.set_embeddings(files)
    prompts = ["a man, style", "a man", "worst-hands"]
    alone = [sample(pipe=own, prompt=prompt, seed=3).latents for prompt in prompts]
    together = sample(pipe=own, prompt=prompts, face=[person(0)] * 3, seed=[3] * 3).latents
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-4)
    own.set_embeddings([])


def test_images_record_the_embeddings(own, files, sample, folder, tmp_path):
    chosen = [files[0], f"hands={files[1]}"]
    own.set_embeddings(chosen)
    result = sample(pipe=own, prompt="style, hands", output_type="pil")
    (path,) = result.save(tmp_path / "a.png")
    facts = Provenance.read(path).facts
    assert facts["weights"]["embeddings"] == chosen == list(own.sources.embeddings)
    again = Sources.from_arguments({"embeddings": facts["weights"]["embeddings"]})
    assert again.embeddings == own.sources.embeddings
    loaded = InstantIDPipeline.load(sdxl=folder, instantid=folder, embeddings=chosen)
    assert loaded.model.weights_hash == facts["weights_hash"] == own.model.weights_hash
    same = sample(pipe=loaded, prompt="style, hands")
    np.testing.assert_array_equal(same.latents, result.latents)
    own.set_embeddings([])


def test_the_hash_tells_embeddings_apart(own, files):
    hashes = []
    for chosen in ([], [files[0]], [files[1]], [f"style={files[1]}"], list(files), files[::-1]):
        own.set_embeddings(chosen)
        hashes.append(own.model.weights_hash)
    own.set_embeddings([])
    # The order says nothing.
    assert hashes[-1] == hashes[-2] and len(set(hashes)) == 5
    assert own.model.weights_hash == hashes[0]


def test_what_cannot_be_read_changes_nothing(own, files, tmp_path):
    own.set_embeddings([files[0]])
    before = own.model.embeddings.all
    tensors = {name: value[:, :-1].copy() for name, value in vectors(own.model, 2).items()}
    other = write(tmp_path / "other.safetensors", tensors)
    for wrong in (
        [files[1], "/nowhere/a.safetensors"],
        [files[1], other],
        files[1],
        [files[0]] * 2,
    ):
        with pytest.raises(InputError):
            own.set_embeddings(wrong)
        assert own.model.embeddings.all == before
        assert own.sources.embeddings == (files[0],)
    own.set_embeddings([])


def test_embeddings_in_loras_come_and_go_with_them(own, files, sample, tmp_path, compiled_by):
    known = spellings({part: getattr(own.model.networks, part) for part in PARTS})
    key, target = next((k, t) for k, t in known.items() if k.endswith("attn2_to_k"))
    lora = {
        f"{key}.lora_up.weight": np.zeros((target.shape[0], 1), np.float32),
        f"{key}.lora_down.weight": np.ones((1, target.shape[1]), np.float32),
    }
    bundled = vectors(own.model, 3, "bundle_emb.<me>.")
    file = write(tmp_path / "lora.safetensors", lora, bundled)
    plain = sample(pipe=own, prompt="a <me>").latents
    assert compiled_by(own.set_loras, loras=[file]) == []
    with_it = sample(pipe=own, prompt="a <me>").latents
    assert not np.array_equal(with_it, plain)
    own.set_embeddings([f"<ME>={files[0]}"])
    assert not np.array_equal(sample(pipe=own, prompt="a <me>").latents, with_it)
    own.set_embeddings([file])
    np.testing.assert_array_equal(sample(pipe=own, prompt="a <me>").latents, with_it)
    own.set_embeddings([])
    own.set_loras([])
    np.testing.assert_array_equal(sample(pipe=own, prompt="a <me>").latents, plain)


@pytest.mark.slow
def test_a_mesh_takes_embeddings_too(own, files, folder, sample):
    own.set_embeddings(files)
    wanted = sample(pipe=own, prompt="style").latents
    own.set_embeddings([])
    mesh = sampling_mesh(guidance=2, devices=jax.devices()[:2])
    pipe = InstantIDPipeline.load(sdxl=folder, instantid=folder, mesh=mesh, embeddings=files)
    np.testing.assert_allclose(sample(pipe=pipe, prompt="style").latents, wanted, atol=1e-4)
