"""Fields: every setting is a field, and texts of forms stand for its values."""

import json

import pytest

from instantid_jax.errors import InputError
from instantid_jax.request import Settings
from instantid_jax.request.settings import CHECKS
from instantid_jax.request.styles import find_style
from instantid_jax.serving.http.errors import FieldError
from instantid_jax.serving.http.fields import FILES, NAMES, Fields, naming_fields, read_fields
from instantid_jax.serving.http.forms import Form
from instantid_jax.serving.http.limits import Limits

# A value of each setting that is not its default.
VALUES = {
    "negative_prompt": "1",
    "prompt_2": "true",
    "negative_prompt_2": "",
    "prompt_weighting": False,
    "height": 64,
    "width": 128,
    "num_inference_steps": 7,
    "guidance_scale": 3,
    "guidance_rescale": 0.5,
    "guidance_rescale_v": 0.7,
    "guidance_interval": [0.28, 5.42],
    "apg_eta": 0.5,
    "apg_threshold": 15.0,
    "mimic_scale": 4.0,
    "pag_scale": 3.0,
    "pag_adaptive_scale": 0.1,
    "pag_applied_layers": ["mid", "down"],
    "freeu": [0.9, 0.2, 1.3, 1.4],
    "ip_adapter_scale": {"down": 0.5, "up": {"block_0": [0, 1, 0]}},
    "ip_adapter_start": 0.1,
    "ip_adapter_end": 0.9,
    "negative_id_noise": 0.35,
    "controlnet_conditioning_scale": [0.8, 0.4],
    "control_guidance_start": 0.1,
    "control_guidance_end": 0.9,
    "guess_mode": True,
    "clip_skip": 1,
    "original_size": [64, 64],
    "crops_coords_top_left": [1, 2],
    "target_size": [64, 64],
    "negative_original_size": [32, 32],
    "negative_crops_coords_top_left": [3, 4],
    "negative_target_size": [32, 32],
    "scheduler": "ddim",
    "eta": 0.5,
    "timesteps": [999, 500],
    "sigmas": [14.6, 1.0, 0.0],
    "strength": 0.5,
    "mask_blur": 2.0,
    "padding_mask_crop": 32,
    "denoising_start": 0.2,
    "denoising_end": 0.8,
    "aesthetic_score": 7.0,
    "negative_aesthetic_score": 1.5,
    "seed": 9,
    "num_images_per_prompt": 2,
}


def read(values, files=None, *, encoded=True, limits=Limits(), defaults=Settings()) -> Fields:
    form = Form({"prompt": ["a"] if encoded else "a", **values}, files or {}, encoded)
    return read_fields(form, limits, defaults)


def text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_every_setting_is_tried_below():
    assert VALUES.keys() == CHECKS.keys()


@pytest.mark.parametrize("name", VALUES)
def test_texts_of_forms_stand_for_values_of_json(name):
    value = VALUES[name]
    expected = CHECKS[name](name, value)
    files = {"source": [b"1"], "mask": [b"1"]}
    assert read({name: value}, files, encoded=False).request[name] == expected
    if name != "pag_applied_layers":
        assert read({name: [text(value)]}, files).request[name] == expected
    if isinstance(value, list):
        assert read({name: [text(each) for each in value]}, files).request[name] == expected


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("num_inference_steps", "many", "expected a whole number"),
        ("num_inference_steps", "151", "at most 150"),
        ("num_inference_steps", "7.5", "expected a whole number"),
        ("guidance_scale", "NaN", "expected a number"),
        ("guidance_scale", "-1", "expected a number"),
        ("guidance_scale", "9" * 5000, "expected a number"),
        ("guidance_scale", "[" * 9999, "expected a number"),
        ("guess_mode", "yes", "expected True or False"),
        ("scheduler", "eulerr", "expected None or one of euler"),
        ("seed", "4294967296", "expected 0 to"),
        ("n", "9", "at most 8"),
        ("n", "0", "expected 1 to"),
        ("response_format", "url", "expected b64_json"),
        ("output_format", "gif", "expected one of png, jpeg, webp"),
        ("output_compression", "101", "expected 0 to 100"),
        ("partial_images", "4", "expected 0 to 3"),
        ("partial_images", "2", "give stream=true"),
        ("prompt", "x" * 20001, "at most 20000"),
        ("prompt", "\ud800", "expected text in UTF-8"),
        ("style", "Film Noirr", "did you mean Film Noir?"),
        ("ip_adapter_scal", "1", "did you mean ip_adapter_scale?"),
        ("face", "1", "did you mean image?"),
        ("mask_image", "1", "did you mean mask?"),
        ("steps", "1", "did you mean num_inference_steps?"),
        ("latents", "1", "not taken over HTTP"),
        ("a" * 500, "1", "unknown argument"),
    ],
)
def test_wrong_fields_are_named(name, value, words):
    with pytest.raises(FieldError) as raised:
        read({name: [value]})
    assert words in str(raised.value) and raised.value.param == name[:100]
    assert len(str(raised.value)) < 2500


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FILES])
def test_values_of_every_type_are_taken_or_refused_in_few_words(name):
    long = "c" * 5000
    values = [long, [1] * 5000, {long: 1}, {"a": long}, 10**4000, [[long]], [long, long], 1.5, []]
    for value in values:
        try:
            read({name: value}, encoded=False)
        except FieldError as error:
            assert len(str(error)) < 600, value


@pytest.mark.parametrize(
    ("values", "files", "words"),
    [
        ({"seed": ["1", "2"]}, {}, "given 2 times"),
        ({"size": ["64x64"], "height": ["64"]}, {}, "size and height"),
        ({}, {"mask": [b"1"]}, "mask without source"),
        ({}, {"pose": [b"1", b"2"]}, "give one file"),
        ({}, {"image": [b"1"] * 9}, "at most 8"),
        ({"face_id": ["face_a"]}, {"image": [b"1"]}, "give one person"),
        ({"timesteps": ["5"] * 151}, {}, "at most 150"),
    ],
)
def test_fields_that_do_not_go_together(values, files, words):
    with pytest.raises(FieldError, match=words):
        read(values, files)


def test_a_prompt_is_needed():
    with pytest.raises(FieldError, match="no prompt"):
        read_fields(Form({}, {}, encoded=False), Limits(), Settings())


def test_empty_texts_of_forms_are_not_given():
    fields = read({"seed": [""], "guidance_scale": [" "], "negative_prompt": [""]})
    assert fields.request["guidance_scale"] is None and fields.request["negative_prompt"] == ""


def test_styles_add_words():
    fields = read({"style": ["film noir"], "negative_prompt": ["rain"]})
    style = find_style("Film Noir")
    assert fields.request["prompt"] == style.positive("a")
    assert fields.request["negative_prompt"] == style.negative("rain")


def test_the_servers_defaults_hold_where_nothing_is_given():
    defaults = Settings(timesteps=(999, 750), guidance_scale=1.0, seed=5, height=64, width=64)
    request = read({}, defaults=defaults).request
    assert request["timesteps"] == (999, 750) and request["guidance_scale"] == 1.0
    assert "height" not in request
    request = read({"num_inference_steps": ["9"]}, defaults=defaults).request
    assert request["num_inference_steps"] == 9 and "timesteps" not in request


@pytest.mark.parametrize(
    ("message", "param", "shown"),
    [
        ("kps has shape [4, 2]: expected [5, 2]", "kps", None),
        ("mask_image has 9 x 9 pixels", "mask", "mask has 9 x 9 pixels"),
        ("image and latents exclude each other", "source", "source and latents exclude each other"),
        ("something else", None, None),
    ],
)
def test_errors_of_whole_requests_name_fields(message, param, shown):
    with pytest.raises(InputError) as raised, naming_fields():
        raise InputError(message)
    assert str(raised.value) == (shown or message)
    assert getattr(raised.value, "param", None) == param


def test_errors_that_name_a_field_are_left_as_they_are():
    error = FieldError("kps: the service says so", "face_id", "face_not_found")
    with pytest.raises(FieldError) as raised, naming_fields():
        raise error
    assert raised.value is error
