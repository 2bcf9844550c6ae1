"""InstantID's adapter, published and as training programs save it."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.numpy import load_file

from instantid_jax.components import network
from instantid_jax.errors import InputError
from instantid_jax.json_files import write_json
from instantid_jax.weights.adapters import adapter_file, adapter_parts
from instantid_jax.weights.layouts import find_instantid
from tests.convert.published import UNET, write_published

KIND = {"addition_embed_type": "text_time", "use_linear_projection": True}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "both"
    write_published(folder, unet=UNET, controlnet=UNET, dtype="float16")
    return folder


@pytest.fixture(scope="module")
def published(sound):
    return {n: torch.from_numpy(t) for n, t in load_file(sound / "ip-adapter.safetensors").items()}


def parts_of(path):
    parts = adapter_parts(path, network("unet", UNET))
    return {name: part.load(None) for name, part in parts.items()}


def assert_same(ours, theirs):
    for part, params in theirs.items():
        assert ours[part].keys() == params.keys()
        for name, value in params.items():
            np.testing.assert_array_equal(ours[part][name], value)


class Trained(torch.nn.Module):
    """The module that IP-Adapter's tutorial_train_sdxl.py saves, with these weights."""

    def __init__(self, published):
        super().__init__()
        self.unet = UNet2DConditionModel(**UNET | KIND).half()
        processors = {}
        for number, name in enumerate(self.unet.attn_processors):
            processors[name] = torch.nn.Module()
            if "attn2" in name:
                for leaf in ("to_k_ip", "to_v_ip"):
                    weight = published[f"ip_adapter.{number}.{leaf}.weight"]
                    linear = torch.nn.Linear(*weight.shape[::-1], bias=False)
                    linear.weight.data = weight
                    setattr(processors[name], leaf, linear)
        self.unet.set_attn_processor(processors)
        self.adapter_modules = torch.nn.ModuleList(self.unet.attn_processors.values())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "ip-adapter.bin"])
def test_adapter_of_a_training_program(sound, published, tmp_path, name):
    """It has the UNet, too, and in that the attention processors once more."""
    state = Trained(published).state_dict()
    state |= {
        key.replace("image_proj.", "image_proj_model."): tensor
        for key, tensor in published.items()
        if key.startswith("image_proj.")
    }
    assert any(key.startswith("unet.") and "to_k_ip" in key for key in state)
    torch.save(state, tmp_path / name)
    assert adapter_file(tmp_path).name == name
    assert_same(parts_of(tmp_path / name), parts_of(sound / "ip-adapter.safetensors"))


def test_moving_average_next_to_the_adapter_is_left_out(sound, published, tmp_path):
    averages = {f"ema.{name}": tensor * 0 for name, tensor in published.items()}
    averages |= {f"{name}_ema": tensor * 0 for name, tensor in published.items()}
    torch.save(published | averages, tmp_path / "ip-adapter.bin")
    assert_same(parts_of(tmp_path / "ip-adapter.bin"), parts_of(sound / "ip-adapter.safetensors"))


def test_what_belongs_to_neither_half_is_refused(published, tmp_path):
    torch.save(published | {"controlnet.conv_in.bias": torch.ones(3)}, tmp_path / "ip-adapter.bin")
    with pytest.raises(InputError, match="is an InstantID adapter with other tensors"):
        parts_of(tmp_path / "ip-adapter.bin")


def test_identitynet_without_settings_has_the_unets_sizes(sound, tmp_path):
    """In ControlNetModel/, or next to the adapter as in ComfyUI's folders."""
    unet = network("unet", UNET)
    weights = sound / "ControlNetModel" / "diffusion_pytorch_model.safetensors"
    wanted = find_instantid(str(sound), unet)["controlnet"]
    for folder in ("ControlNetModel", "."):
        source = tmp_path / f"in {folder}"
        (source / folder).mkdir(parents=True)
        (source / "ip-adapter.safetensors").symlink_to(sound / "ip-adapter.safetensors")
        (source / folder / weights.name).symlink_to(weights)
        write_json(source / "config.json", {"dim_head": 32})
        found = find_instantid(str(source), unet)
        assert found["controlnet"].network == wanted.network
        assert found["image_proj"].network.config.dim_head == 32
        assert_same({"": found["controlnet"].load(None)}, {"": wanted.load(None)})
