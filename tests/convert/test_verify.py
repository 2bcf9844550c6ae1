"""`verify`: both sides agree on the same weights, and differences are reported."""

import builtins
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert import torch_reference
from convert.verification_step import Outputs
from convert.verify import compare, relative
from instantid_jax.components import Component, network

SIZE = ("--height", 64, "--width", 40)
WHAT = ["Resampler tokens", "IdentityNet residuals", "UNet output", "next latents"]


def differences(ran):
    """The printed table, by its row."""
    return {line[:24].strip(): float(line[24:]) for line in ran.out[:-1]}


def test_both_sides_agree(convert, weights):
    ran = convert("verify", *weights, *SIZE)
    assert ran.status == 0 and ran.out[-1] == "within 1e-04"
    found = differences(ran)
    assert list(found) == WHAT
    assert all(0 < difference < 1e-5 for difference in found.values()), found


@pytest.mark.slow
def test_converted_model_is_compared_in_place_of_the_files(
    convert, weights, converted, published, tmp_path
):
    """Its adapter's layers are swapped, as by counting them in the wrong order."""
    ran = convert("verify", *weights, *SIZE, "--model", converted, "--seed", 1)
    assert ran.status == 0, ran

    swapped = tmp_path / "instantid"
    shutil.copytree(published / "instantid", swapped)
    state = torch.load(swapped / "ip-adapter.bin", weights_only=True)
    numbers = sorted({int(name.split(".")[0]) for name in state["ip_adapter"]})
    widths = {n: state["ip_adapter"][f"{n}.to_k_ip.weight"].shape for n in numbers}
    first, last = next(
        (a, b) for a in numbers for b in numbers[::-1] if a < b and widths[a] == widths[b]
    )
    for name in ("to_k_ip.weight", "to_v_ip.weight"):
        pair = [state["ip_adapter"][f"{n}.{name}"] for n in (first, last)]
        state["ip_adapter"] |= {f"{first}.{name}": pair[1], f"{last}.{name}": pair[0]}
    torch.save(state, swapped / "ip-adapter.bin")
    sources = ("--sdxl", published / "sdxl", "--instantid", swapped)
    ran = convert("verify", *sources, *SIZE, "--model", converted)
    assert ran.status == 1 and ran.out[-1] == "NOT within 1e-04"
    found = differences(ran)
    assert found["UNet output"] > 1e-3 and found["next latents"] > 1e-4
    assert found["Resampler tokens"] < 1e-5 and found["IdentityNet residuals"] < 1e-5


def test_shards_pickles_and_half_precision(convert, published, tmp_path):
    """Torch's readers take what ours do: the UNet in shards, the adapter as safetensors."""
    sdxl, instantid = tmp_path / "sdxl", tmp_path / "instantid"
    shutil.copytree(published / "sdxl", sdxl)
    shutil.copytree(published / "instantid", instantid)
    unet = torch_reference.UNet2DConditionModel.from_pretrained(sdxl / "unet")
    shutil.rmtree(sdxl / "unet")
    unet.half().save_pretrained(sdxl / "unet", max_shard_size="2MB")
    assert (sdxl / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    nested = torch.load(instantid / "ip-adapter.bin", weights_only=True)
    flat = {f"{half}.{n}": t for half, part in nested.items() for n, t in part.items()}
    (instantid / "ip-adapter.bin").unlink()
    save_file(flat, instantid / "ip-adapter.safetensors")
    controlnet = instantid / "ControlNetModel" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(controlnet), controlnet.with_suffix(".bin"))
    controlnet.unlink()
    ran = convert("verify", "--sdxl", sdxl, "--instantid", instantid, *SIZE)
    assert ran.status == 0 and max(differences(ran).values()) < 1e-5


def test_single_file_is_loaded_by_diffusers_own_conversion(reference, tmp_path):
    file = tmp_path / "original.safetensors"
    reference.save_single_file(file, torch.float32)

    settings = dict(reference.unet.config)
    component = Component(network("unet", settings), settings, load=None, source=str(file))
    loaded = torch_reference.load_network(torch_reference.UNet2DConditionModel, component)
    state = loaded.state_dict()
    assert state.keys() == reference.unet.state_dict().keys()
    for name, tensor in reference.unet.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_without_torch_it_is_told_how_to_install_it(convert, weights, monkeypatch):
    monkeypatch.delitem(sys.modules, "convert.torch_reference")
    monkeypatch.delattr("convert.torch_reference")
    imported = builtins.__import__

    def without_torch(name, *arguments, **options):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'")
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    error = convert("verify", *weights, *SIZE).error
    assert "verify needs torch and diffusers (No module named 'torch'): pip install torch" in error


@pytest.mark.parametrize("size", [0, 60, -8])
def test_sizes_are_multiples_of_8(convert, weights, size):
    error = convert("verify", *weights, "--height", size).error
    assert error == f"--height {size}: expected a multiple of 8"


def test_what_counts_as_a_difference():
    one = np.ones((2, 3), np.float32)
    assert relative(one, one) == 0 and relative(0 * one, 0 * one) == 0
    assert relative(1.1 * one, one) == pytest.approx(0.1)
    assert relative(one, 0 * one) == np.inf
    assert relative(one[:1], one) == relative(np.nan * one, one) == np.inf
    assert relative(one, np.inf * one) == np.inf
    ours = Outputs(one, [one, 1.2 * one], one, one)
    theirs = Outputs(one, [1.0 * one, one], one, one)
    assert compare(ours, theirs)["IdentityNet residuals"] == pytest.approx(0.2)
