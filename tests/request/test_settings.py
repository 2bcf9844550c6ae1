import dataclasses
import json

import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.request import Settings
from instantid_jax.request.settings import CHECKS


def test_every_setting_has_a_check():
    assert list(CHECKS) == [field.name for field in dataclasses.fields(Settings)]


VARIED = Settings(
    negative_prompt="雨",
    height=64,
    width=72,
    guidance_scale=7,
    controlnet_conditioning_scale=[0.5, 1],
    control_guidance_end=(0.5, 1.0),
    original_size=[3, 4],
    scheduler="unipc",
    seed=2**32 - 1,
)


@pytest.mark.parametrize("settings", [Settings(), VARIED], ids=["defaults", "varied"])
def test_settings_survive_json(settings):
    text = json.dumps(settings.to_json())
    again = Settings.from_json(json.loads(text))
    assert again == settings and hash(again) == hash(settings)


def test_values_become_plain_python():
    assert VARIED.controlnet_conditioning_scale == (0.5, 1.0)
    assert VARIED.original_size == (3, 4) and VARIED.controlnets == 2
    assert Settings(control_guidance_start=[0.25]).control_guidance_start == 0.25
    assert type(Settings(guidance_scale=3).guidance_scale) is float


def test_unknown_names_in_json_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="guidence_scale: did you mean guidance_scale"):
        Settings.from_json({"guidence_scale": 3})
    with pytest.raises(InputError, match="return_dict is not supported"):
        Settings.from_json({"return_dict": True})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("negative_prompt", 3, "holds a int: expected text"),
        ("height", 64, "height=64, width=None: give both or neither"),
        ("num_inference_steps", 2.5, "expected a whole number"),
        ("num_inference_steps", True, "expected a whole number"),
        ("guidance_scale", float("inf"), "expected a number at least 0"),
        ("control_guidance_start", 1.5, "from 0 to 1"),
        ("ip_adapter_start", 1, "ip_adapter_start=1 must be below ip_adapter_end=1"),
        ("ip_adapter_end", -0.5, "from 0 to 1"),
        ("negative_id_noise", 1.5, "from 0 to 1"),
        ("controlnet_conditioning_scale", [], "is empty"),
        ("controlnet_conditioning_scale", "0.5x", "expected a number"),
        ("guess_mode", "no", "expected True or False"),
        ("crops_coords_top_left", None, "expected two whole numbers"),
        ("original_size", (1, 2, 3), "expected two whole numbers"),
        ("guidance_scale", 1e300, "guidance_scale=1e.300: expected a number at least 0"),
        ("guidance_scale", 10**400, "guidance_scale=1000000.*0...: expected a number at least 0"),
        ("timesteps", 5, "timesteps=5: expected a list of values"),
        ("timesteps", [], "expected a list of values"),
        ("guidance_interval", (1, 2, 3), "expected 2 numbers"),
        ("guidance_interval", (5.42, 0.28), "expected low, high"),
        ("guidance_rescale", 1.5, "from 0 to 1"),
        ("freeu", (1, 1), "expected 4 numbers"),
        ("pag_applied_layers", 5, "expected a list of values"),
        ("timesteps", [999.5], "expected a whole number"),
        ("sigmas", [-1.0], "expected a number at least 0"),
        ("scheduler", "dpm2", "expected None or one of euler,"),
        ("scheduler", ["euler"], "expected None or one of euler,"),
        ("eta", 2, "from 0 to 1"),
        ("seed", 2**32, "expected 0 to 4294967295"),
        ("num_images_per_prompt", 0, "expected 1 to 1024"),
    ],
)
def test_a_value_that_no_model_takes_is_refused_in_one_line(name, value, message):
    with pytest.raises(InputError, match=message) as error:
        Settings(**{name: value})
    assert "\n" not in str(error.value)


def test_explicit_steps_say_how_many_there_are():
    for timesteps in ([999, 749, 499], (999, 749, 499), np.array([999, 749, 499])):
        settings = Settings(timesteps=timesteps)
        assert (settings.timesteps, settings.num_inference_steps) == ((999, 749, 499), 3)
    assert Settings(sigmas=[14.0, 1.0, 0.0]).num_inference_steps == 2
    with pytest.raises(InputError, match="timesteps and sigmas say the same"):
        Settings(timesteps=[9], sigmas=[1.0, 0.0])


BLOCKS = {"down": 1, "mid": [0.25], "up": {"block_0": [0, 1, 0], "block_1": 0.5}}


def test_strengths_of_blocks_compare_hash_and_survive_json():
    settings = Settings(ip_adapter_scale=BLOCKS)
    again = Settings.from_json(json.loads(json.dumps(settings.to_json())))
    assert again == settings and hash(again) == hash(settings)
    assert settings != Settings(ip_adapter_scale=BLOCKS | {"mid": 0.5})
    kept = {"down": 1.0, "mid": 0.25, "up": {"block_0": [0.0, 1.0, 0.0], "block_1": 0.5}}
    assert settings.to_json()["ip_adapter_scale"] == kept
    assert dataclasses.replace(settings, seed=1).ip_adapter_scale == settings.ip_adapter_scale


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "ip_adapter_scale is empty: give a number, or strengths of down, mid and up"),
        ({"middle": 1}, "ip_adapter_scale has 'middle': expected down, mid, up, as in"),
        ({"up": {"0": 1}}, "ip_adapter_scale.up has '0': expected block_0, block_1"),
        ({"up": {"block_0": -1}}, "ip_adapter_scale.up.block_0=-1: expected a number at least 0"),
        ({"mid": {"block_0": 1}}, "ip_adapter_scale.mid={'block_0': 1}: expected a number"),
        ({"down": []}, "ip_adapter_scale.down is empty"),
        ([0.5, 0.5], "ip_adapter_scale=.0.5, 0.5.: expected a number"),
    ],
)
def test_other_strengths_of_blocks_are_refused(value, message):
    with pytest.raises(InputError, match=message) as error:
        Settings(ip_adapter_scale=value)
    assert "\n" not in str(error.value)
