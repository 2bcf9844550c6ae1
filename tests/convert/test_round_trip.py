"""From PyTorch's files to a folder of ours and back: every name, dtype, shape and byte."""

import json
import os
import stat

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

from instantid_jax.checkpoint import stored_params
from tests.convert.published import UNET, write_published
from tests.parity.reference import make_controlnet

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CONTROLNET_FILE = "ControlNetModel/diffusion_pytorch_model.safetensors"


@pytest.fixture
def there_and_back(convert, tmp_path):
    """Converts an InstantID folder to ours and back; returns the folder written."""

    def call(instantid, sdxl, to_jax=(), to_torch=()):
        model, back = tmp_path / "model", tmp_path / "back"
        ran = convert(
            *("to-jax", "--sdxl", sdxl, "--instantid", instantid, "--output", model, *to_jax)
        )
        assert (ran.status, ran.out) == (0, [str(model)])
        ran = convert("to-torch", model, "--output", back, *to_torch)
        assert (ran.status, ran.out) == (0, [str(back)])
        return back

    return call


@pytest.fixture
def source(tmp_path):
    """SDXL and InstantID in float16, tiny, in one folder."""
    folder = tmp_path / "source"
    write_published(folder, unet=UNET, controlnet=UNET, dtype="float16")
    return folder


def recast(folder, choose):
    """Writes each tensor of a folder's safetensors files in the dtype that `choose(i)` says."""
    for path in folder.rglob("*.safetensors"):
        tensors = {n: t.to(choose(i)) for i, (n, t) in enumerate(load_file(path).items())}
        save_file(tensors, path, {"format": "pt"})


def same(ours, theirs):
    """All tensors have the same names, dtypes, shapes and bytes."""
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(ours[name].view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.mark.parametrize(
    "choose",
    [lambda i: torch.float16, lambda i: torch.bfloat16, lambda i: DTYPES[i % 3]],
    ids=["float16", "bfloat16", "mixed"],
)
def test_files_come_back_byte_for_byte(there_and_back, source, choose):
    recast(source, choose)
    back = there_and_back(source, source)
    for name in ("ip-adapter.safetensors", CONTROLNET_FILE):
        same(load_file(back / name), load_file(source / name))
        assert (back / name).read_bytes() == (source / name).read_bytes()


def test_files_of_torch_and_diffusers_come_back(reference, published, there_and_back, tmp_path):
    """A pickle, its head size, and the files of `save_pretrained`."""
    source = tmp_path / "instantid"
    reference.save_instantid(source, adapter="bin")
    for file in (source / "ControlNetModel").iterdir():
        file.unlink()
    controlnet = make_controlnet(9)
    controlnet.save_pretrained(source / "ControlNetModel")
    back = there_and_back(source, published / "sdxl")

    files = [str(p.relative_to(back)) for p in sorted(back.rglob("*")) if p.is_file()]
    config = "ControlNetModel/config.json"
    assert files == [config, CONTROLNET_FILE, "config.json", "ip-adapter.safetensors"]
    for name in (config, CONTROLNET_FILE):
        assert (back / name).read_bytes() == (source / name).read_bytes()
    loaded = ControlNetModel.from_pretrained(back / "ControlNetModel")
    same(loaded.state_dict(), controlnet.state_dict())
    nested = reference.adapter_state()
    flat = {f"{half}.{n}": t for half, state in nested.items() for n, t in state.items()}
    same(load_file(back / "ip-adapter.safetensors"), flat)
    assert json.loads((back / "config.json").read_text()) == {"dim_head": 16}
    umask = os.umask(0o22)
    os.umask(umask)
    assert {stat.S_IMODE((back / name).stat().st_mode) for name in files} == {0o666 & ~umask}


def test_dtype_is_changed_where_asked(there_and_back, source, tmp_path):
    """To a wider one and back; the head size is the usual one, so that no settings are written."""
    back = there_and_back(
        source, source, to_jax=("--dtype", "float32"), to_torch=("--dtype", "float16")
    )
    for name in ("ip-adapter.safetensors", CONTROLNET_FILE):
        assert (back / name).read_bytes() == (source / name).read_bytes()
    assert not (back / "config.json").exists()
    stored = stored_params(tmp_path / "model" / "controlnet" / "params")
    assert {array.dtype for array in stored.values()} == {np.dtype("float32")}


def test_numbers_too_large_for_a_dtype_are_refused(convert, source, tmp_path):
    file = source / CONTROLNET_FILE
    tensors = load_file(file)
    tensors["controlnet_mid_block.bias"] = tensors["controlnet_mid_block.bias"].float()
    tensors["controlnet_mid_block.bias"][3] = 1e6
    save_file(tensors, file, {"format": "pt"})
    sources = ("--sdxl", source, "--instantid", source)

    half = tmp_path / "half"
    ran = convert("to-jax", *sources, "--output", half, "--dtype", "float16")
    assert "controlnet_mid_block.bias has values too large for float16" in ran.error
    assert not half.exists()

    assert convert("to-jax", *sources, "--output", tmp_path / "model").status == 0
    ran = convert("to-torch", tmp_path / "model", "--output", half, "--dtype", "float16")
    assert "controlnet_mid_block.bias has values too large for float16" in ran.error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "source"]
