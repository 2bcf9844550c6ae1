"""Damaged, truncated and wrong files: each is named as what it is, and nothing is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.numpy import load_file, save_file

from tests.convert.published import UNET, write_published
from tests.weights.test_identify import PUBLISHED, SMALL, UPS

CONTROLNET_FILE = "ControlNetModel/diffusion_pytorch_model.safetensors"
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "both"
    write_published(folder, unet=UNET, controlnet=UNET, dtype="float16")
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    """A sound folder of SDXL and InstantID, to be spoilt."""
    return shutil.copytree(sound, tmp_path / "weights")


@pytest.fixture
def refused(convert, folder, tmp_path):
    """Converts the folder; returns the one line with which that is refused."""

    def call(sdxl=folder, instantid=folder, *options):
        sources = ("--sdxl", sdxl, "--instantid", instantid)
        ran = convert("to-jax", *sources, "--output", tmp_path / "out", *options)
        line = ran.error
        assert len(ran.err) == 1
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]
        return line

    return call


def write(path, shapes):
    """A weights file with these names and shapes, of zeros and in as few bytes as can be."""
    save_file({name: np.zeros(shape, np.int8) for name, shape in shapes.items()}, path)
    return path


def sd15(cls, folder, **settings):
    """A small network of diffusers as SD 1.5 has it."""
    with torch.no_grad():
        cls(**SMALL | {"cross_attention_dim": 768} | settings).save_pretrained(folder)


# -- another thing --------------------------------------------------------------------------------

NOT_SDXL = [
    *("SD 1.5", "SD 2.1", "SDXL refiner", "SDXL image editing", "Stable Video Diffusion"),
    *("InstantID", "SDXL without text encoder 2", "SDXL's UNet alone", "a moving average alone"),
    *("LoRA, kohya", "VAE, original", "FLUX, transformer alone", "textual inversion", "nothing"),
]


@pytest.mark.parametrize("name", NOT_SDXL)
def test_file_that_is_no_sdxl(refused, tmp_path, name):
    shapes, phrase, _ = PUBLISHED[name]
    small = {key: tuple(min(n, 9) for n in shape) for key, shape in shapes.items()}
    if name.startswith(("SDXL", "InstantID")):
        small = shapes
    file = write(tmp_path / "file.safetensors", small)
    assert f"{file} is {phrase}: expected an SDXL checkpoint" in refused(sdxl=file)


NOT_INSTANTID = ["IP-Adapter", "IP-Adapter FaceID", "IP-Adapter Plus, SDXL", "LoRA, peft", "SD 1.5"]


@pytest.mark.parametrize("name", NOT_INSTANTID)
def test_adapter_that_is_not_instantids(refused, folder, name):
    shapes, phrase, _ = PUBLISHED[name]
    file = write(folder / "ip-adapter.safetensors", shapes)
    assert f"{file} is {phrase}: expected an InstantID adapter" in refused()


def test_identitynet_as_the_adapter(refused, folder):
    shutil.copy(folder / CONTROLNET_FILE, folder / "ip-adapter.safetensors")
    assert "is a 96-wide ControlNet (diffusers layout): expected an InstantID adapter" in refused()


def test_adapter_as_identitynet(refused, folder):
    shutil.copy(folder / "ip-adapter.safetensors", folder / CONTROLNET_FILE)
    assert "is an InstantID adapter: expected an SDXL ControlNet" in refused()


def test_unet_as_identitynet(refused, folder):
    shutil.copy(folder / UNET_FILE, folder / CONTROLNET_FILE)
    assert "is a 96-wide UNet (diffusers layout): expected an SDXL ControlNet" in refused()


def test_controlnet_of_sd15(refused, folder, tmp_path):
    sd15(ControlNetModel, tmp_path / "sd15")
    line = refused(folder, folder, "--controlnets", tmp_path / "sd15")
    assert "is an SD 1.x ControlNet (diffusers layout): expected an SDXL ControlNet" in line
    shutil.rmtree(folder / "ControlNetModel")
    shutil.copytree(tmp_path / "sd15", folder / "ControlNetModel")
    assert "is an SD 1.x ControlNet (diffusers layout): expected an SDXL ControlNet" in refused()


def test_folder_of_sd15(refused, folder, tmp_path):
    sd15(UNet2DConditionModel, tmp_path / "sd15" / "unet", **UPS)
    line = refused(sdxl=tmp_path / "sd15")
    assert "expected SDXL in diffusers' layout" in line
    assert "its unet/ holds an SD 1.x UNet (diffusers layout)" in line

    shutil.rmtree(folder / "unet")
    shutil.copytree(tmp_path / "sd15" / "unet", folder / "unet")
    assert "is an SD 1.x UNet (diffusers layout): expected an SDXL UNet" in refused()


@pytest.mark.parametrize("given", ["ip-adapter.safetensors", CONTROLNET_FILE])
def test_file_in_place_of_a_folder(refused, folder, given):
    file = folder / given
    called = "a 96-wide ControlNet (diffusers layout)"
    if given == "ip-adapter.safetensors":
        called = "an InstantID adapter"
    assert f"{file} is {called}: expected the folder of an InstantID" in refused(instantid=file)


@pytest.mark.parametrize("name", ["InstantID", "LoRA, peft", "SDXL", "VAE, original", "SD 1.5"])
def test_file_that_is_no_controlnet_is_told_where_it_belongs(refused, folder, tmp_path, name):
    shapes, phrase, part = PUBLISHED[name]
    file = write(
        tmp_path / "file.safetensors",
        {n: s[:1] + (1,) * len(s[1:]) for n, s in shapes.items()} if part == "vae" else shapes,
    )
    line = refused(folder, folder, "--controlnets", file)
    assert f"{file} is {phrase}: expected an SDXL ControlNet" in line
    advice = {
        "lora": "give it as loras=",
        "sdxl": "give it as sdxl=",
        "vae": "give it as vae=",
        "instantid": "give its folder as instantid=",
        None: "expected an SDXL ControlNet",
    }
    assert line.endswith(advice[part])


def test_wrong_class_with_right_weights(refused, folder):
    config = folder / "ControlNetModel" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "T2IAdapter"}))
    assert "its config.json describes a T2IAdapter" in refused()


def test_settings_that_are_not_supported(refused, folder):
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(UNET | {"resnet_time_scale_shift": "scale_shift"}))
    assert "resnet_time_scale_shift='scale_shift' is not supported" in refused()


def test_parts_of_different_models(refused, folder, tmp_path):
    wide = UNET | {"block_out_channels": [32, 64]}
    write_published(tmp_path / "wide", unet=wide, controlnet=wide, dtype="float16")
    assert "does not fit" in refused(instantid=tmp_path / "wide")
    shutil.rmtree(folder / "ControlNetModel")
    shutil.copytree(tmp_path / "wide" / "ControlNetModel", folder / "ControlNetModel")
    line = refused()
    assert "controlnet: block_out_channels=(32, 64), expected the UNet's (32, 32)" in line


# -- lacking, left over, misshapen ----------------------------------------------------------------


def test_every_misfit_is_listed(refused, folder):
    file = folder / UNET_FILE
    tensors = load_file(file)
    del tensors["conv_in.bias"]
    tensors["extra.weight"] = np.zeros(3, np.float16)
    tensors["conv_out.bias"] = np.zeros(5, np.float16)
    save_file(tensors, file)
    line = refused()
    assert (
        f"unet ({file}) does not fit: 1 missing: conv_in.bias; 1 unexpected: extra.weight; " in line
    )
    assert "1 of another shape: conv_out.bias is (5,), expected (4,)" in line


def test_single_file_of_other_sizes(refused, published, reference, tmp_path):
    """SDXL's sizes hold for single files, which do not tell their own."""
    file = tmp_path / "small.safetensors"
    reference.save_single_file(file)
    line = refused(file, published / "instantid", "--tokenizers", published / "sdxl")
    assert f"unet ({file}) does not fit: " in line and " missing: " in line
    assert "of another shape: " in line and "is (128,), expected (1280,)" in line


def test_missing_files_are_named(refused, folder):
    (folder / "vae" / "config.json").unlink()
    assert "no vae/config.json; expected SDXL in diffusers' layout" in refused()


def test_weights_of_integers(refused, folder):
    file = folder / UNET_FILE
    tensors = load_file(file)
    tensors["conv_in.bias"] = tensors["conv_in.bias"].astype(np.int8)
    save_file(tensors, file)
    assert "conv_in.bias is stored as int8, expected float32, float16 or bfloat16" in refused()


# -- damaged --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [UNET_FILE, CONTROLNET_FILE, "ip-adapter.safetensors"])
@pytest.mark.parametrize("share", [0.6, 0.01])
def test_truncated_safetensors(refused, folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    line = refused()
    assert f"{folder / name}: damaged or cut short safetensors file" in line


def test_truncated_pickle(refused, folder):
    tensors = load_file(folder / "ip-adapter.safetensors")
    (folder / "ip-adapter.safetensors").unlink()
    file = folder / "ip-adapter.bin"
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, file)
    file.write_bytes(file.read_bytes()[:-1000])
    assert f"{file}: damaged or cut short zip archive" in refused()


TEXTS = {
    "a web page": b"<!DOCTYPE html><html>404</html>",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
    "an empty file": b"",
    "neither safetensors nor a torch.save archive": b"hello",
}


@pytest.mark.parametrize("called", TEXTS)
def test_text_in_place_of_weights(refused, folder, called):
    file = folder / "ip-adapter.safetensors"
    file.write_bytes(TEXTS[called])
    assert f"{file}: {called}" in refused()
    assert f"{file}: {called}" in refused(sdxl=file)


def test_missing_shard(refused, folder):
    tensors = load_file(folder / UNET_FILE)
    (folder / UNET_FILE).unlink()
    first = "diffusion_pytorch_model-00001-of-00002.safetensors"
    save_file(tensors, folder / "unet" / first)
    index = {"weight_map": dict.fromkeys(tensors, first)}
    (folder / f"{UNET_FILE}.index.json").write_text(json.dumps(index))
    assert "the shards in unet/ are incomplete: shard 2 of 2 is missing" in refused()


def test_truncated_converted_model(convert, sound, tmp_path):
    model = tmp_path / "model"
    sources = ("--sdxl", sound, "--instantid", sound)
    assert convert("to-jax", *sources, "--output", model).status == 0
    files = [path for path in model.rglob("params/**/*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    for arguments in (("to-torch", model, "--output", tmp_path / "out"), ("inspect", model)):
        ran = convert(*arguments)
        assert f"{model} is damaged: {largest.relative_to(model)} has" in ran.error
        assert len(ran.err) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_published_weights_instead_of_a_converted_model(convert, sound, tmp_path):
    ran = convert("to-torch", sound, "--output", tmp_path / "out")
    assert f"{sound} is not a converted model" in ran.error
    assert list(tmp_path.iterdir()) == []


def test_nothing_at_all(refused, folder):
    line = refused(sdxl=Path("/nowhere/at/all"))
    assert "no such folder here, and not a hub id" in line
