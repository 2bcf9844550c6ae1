"""LoRAs on a loaded pipeline: what they change, and what they leave."""

import jax
import numpy as np
import pytest

from instantid_jax import InstantIDPipeline
from instantid_jax.checkpoint import save_model
from instantid_jax.errors import InputError
from instantid_jax.pipeline.sources import Sources
from instantid_jax.request.provenance import Provenance
from instantid_jax.sharding import sampling_mesh
from instantid_jax.weights.lora.spellings import PARTS, spellings
from tests.pipeline.test_compilation import compiled_by as compiled_by
from tests.weights.lora.files import write

UNET = ("lora_unet_down_blocks", "lora_unet_mid_block", "lora_unet_up_blocks")


@pytest.fixture(scope="module")
def own(folder):
    """A pipeline of its own, since its weights change."""
    return InstantIDPipeline.load(sdxl=folder, instantid=folder)


@pytest.fixture(scope="module")
def loras(own, tmp_path_factory):
    """A LoRA of the UNet and one of the text encoders."""
    known = spellings({part: getattr(own.model.networks, part) for part in PARTS})
    place = tmp_path_factory.mktemp("loras")

    def file(name, wanted):
        random = np.random.default_rng(0)
        tensors = {}
        for key, target in known.items():
            if wanted(key) and not target.is_norm and len(target.shape) == 2:
                out, inside = target.shape
                tensors[f"{key}.lora_up.weight"] = random.standard_normal((out, 2), np.float32) / 9
                down = random.standard_normal((2, inside), np.float32) / 9
                tensors[f"{key}.lora_down.weight"] = down
        return write(place / name, tensors)

    return (
        file("unet.safetensors", lambda key: key.startswith(UNET) and key.endswith("to_q")),
        file("text.safetensors", lambda key: key.startswith("lora_te1_text_model")),
    )


def bits(pipe) -> dict[str, bytes]:
    return {
        f"{part}.{name}": np.asarray(value).tobytes()
        for part in PARTS
        for name, value in pipe.model.params[part].items()
    }


def test_taking_loras_off_restores_the_bits(own, loras, sample):
    before, plain = bits(own), sample(pipe=own).latents
    hashes = {own.model.weights_hash}
    for chosen in ([loras[0]], [f"{loras[0]}:0.5", f"{loras[1]}:0:2"], [loras[1]]):
        own.set_loras(chosen)
        assert bits(own) != before
        assert not np.array_equal(sample(pipe=own).latents, plain)
        hashes.add(own.model.weights_hash)
    own.set_loras([])
    assert bits(own) == before
    np.testing.assert_array_equal(sample(pipe=own).latents, plain)
    assert len(hashes) == 4 and own.model.weights_hash in hashes


def test_nothing_compiles_for_another_lora_or_strength(own, loras, sample, compiled_by):
    sample(pipe=own)
    for chosen in ([loras[0]], [f"{loras[0]}:0.3:0"], [f"{loras[0]}:-1", loras[1]], []):
        assert compiled_by(own.set_loras, loras=chosen) == []
        assert compiled_by(sample, pipe=own) == []


def test_loaded_with_loras_as_set_later(own, loras, folder, sample):
    chosen = [f"{loras[0]}:0.5", f"{loras[1]}:1"]
    own.set_loras(chosen)
    loaded = InstantIDPipeline.load(sdxl=folder, instantid=folder, loras=chosen)
    assert bits(loaded) == bits(own)
    own.set_loras([])


def test_images_record_the_loras(own, loras, sample, tmp_path):
    own.set_loras([f"{loras[0]}:0.5"])
    (path,) = sample(pipe=own, output_type="pil").save(tmp_path / "a.png")
    recorded = Provenance.read(path).facts["weights"]["loras"]
    assert recorded == [f"{loras[0]}:0.5"] and own.sources.loras == tuple(recorded)
    assert Sources.from_arguments({"loras": recorded}).loras == own.sources.loras
    own.set_loras([])


def test_what_cannot_be_merged_changes_nothing(own, loras, tmp_path):
    own.set_loras([f"{loras[0]}:0.5"])
    before = bits(own)
    shape = own.model.params["unet"]["conv_in.kernel"].shape
    tensors = {"lora_unet_conv_in.diff": np.full((shape[3], shape[2], 3, 3), np.nan, np.float32)}
    broken = write(tmp_path / "broken.safetensors", tensors)
    for wrong in (
        [loras[1], "/nowhere/a.safetensors"],
        [loras[1], broken],
        loras[0],
        [f"{loras[0]}:99"],
    ):
        with pytest.raises(InputError):
            own.set_loras(wrong)
        assert bits(own) == before
        assert own.sources.loras == (f"{loras[0]}:0.5",)
    own.set_loras([])


def test_a_converted_model_and_a_mesh_take_loras_too(own, loras, folder, tmp_path):
    list(save_model(Sources(sdxl=folder, instantid=folder).find(), tmp_path / "model"))
    own.set_loras([f"{loras[0]}:0.5"])
    wanted = bits(own)
    own.set_loras([])
    mesh = sampling_mesh(data=2, devices=jax.devices()[:2])
    converted = InstantIDPipeline.load(model=tmp_path / "model", mesh=mesh)
    before = bits(converted)
    converted.set_loras([f"{loras[0]}:0.5"])
    assert bits(converted) == wanted
    kernel = next(iter(converted.model.params["unet"].values()))
    assert len(kernel.sharding.device_set) == 2
    converted.set_loras([])
    assert bits(converted) == before
