"""Presets of few-step models."""

import typing

import pytest

from instantid_jax.errors import InputError
from instantid_jax.request import Settings
from instantid_jax.request.fast import PRESETS, Fast, check_files, with_preset


def test_every_name_has_a_preset():
    assert set(typing.get_args(Fast)) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_settings_are_valid_and_for_as_many_steps(name):
    settings = Settings(**with_preset(name, {}))
    assert settings.num_inference_steps in PRESETS[name].steps
    assert settings.guidance_scale == (5.0 if name == "hyper-8-cfg" else 1.0)


def test_what_is_given_counts():
    values = with_preset("lcm", {"guidance_scale": 1.5, "num_inference_steps": 6, "eta": None})
    assert values == {"scheduler": "lcm", "guidance_scale": 1.5, "num_inference_steps": 6}
    values = with_preset("dmd2", {"timesteps": [900, 600, 300, 100]})
    assert values["timesteps"] == [900, 600, 300, 100]
    values = with_preset("lightning-4", {"sigmas": [14.6, 4.0, 1.6, 0.7, 0.0]})
    assert Settings(**values | {"scheduler": "euler"}).num_inference_steps == 4


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("lightning-4", {"num_inference_steps": 8}, "is made for 4 steps"),
        ("lightning-8", {"num_inference_steps": 4}, "is made for 8 steps"),
        ("hyper-8-cfg", {"num_inference_steps": 12}, "is made for 8 steps"),
        ("dmd2", {"num_inference_steps": 6}, "is made for 4 steps"),
        ("dmd2", {"timesteps": [999, 500]}, "num_inference_steps=2 .* is made for 4 steps"),
        ("lightning-4", {"sigmas": [3.0, 1.0, 0.0]}, "num_inference_steps=2 .* 4 steps"),
        ("turbo", {"num_inference_steps": 5}, "is made for 1 to 4 steps"),
        ("lcm", {"num_inference_steps": 30}, "is made for 1 to 16 steps"),
        ("lightning", {}, "fast='lightning': expected one of lightning-4, "),
        (4, {}, "fast=4: expected one of"),
    ],
)
def test_refused(name, given, message):
    with pytest.raises(InputError, match=message):
        with_preset(name, given)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("lightning-8", "ByteDance/SDXL-Lightning/sdxl_lightning_4step_lora.safetensors"),
        ("lightning-4", "models/sdxl_lightning_8step_unet.safetensors"),
        ("hyper-8-cfg", "Hyper-SDXL-12steps-CFG-lora.safetensors"),
        ("dmd2", "dmd2_sdxl_1step_unet_fp16.bin"),
        ("lightning-4", "realism-8-Steps.safetensors"),
    ],
)
def test_files_for_another_number_of_steps_are_refused(name, file):
    with pytest.raises(InputError, match=r"is made for \d+ steps by its name"):
        check_files(name, ["style.safetensors", file])


def test_other_files_are_taken():
    check_files("lightning-4", ["a/sdxl_lightning_4step_lora.safetensors", "ten_steppes.bin"])
    check_files("lcm", ["sdxl_lightning_4step_lora.safetensors"])
    check_files("dmd2", ["tianweiy/DMD2/dmd2_sdxl_4step_unet_fp16.bin"])
