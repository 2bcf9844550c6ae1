"""The form: settings in, the same settings out."""

import pytest

from instantid_jax.errors import InputError
from instantid_jax.request.settings import Settings
from instantid_jax.request.styles import STYLES
from instantid_jax.serving.page.form import Choices, preset_values, settings_of, values_of

CHOICES = Choices(tuple(STYLES), ((1024, 1024), (1152, 896)), 5.0)
SETTINGS = {
    "usual": Settings(guidance_scale=5.0),
    "controls": Settings(
        negative_prompt="blurry",
        num_inference_steps=12,
        guidance_scale=2.5,
        scheduler="unipc_karras",
        height=640,
        width=512,
        seed=2**32 - 3,
        num_images_per_prompt=3,
    ),
    "the rest": Settings(
        guidance_scale=5.0,
        pag_scale=3.0,
        guidance_interval=(0.3, 5.0),
        ip_adapter_scale={"down": 0.5},
        controlnet_conditioning_scale=(0.8, 0.4),
        control_guidance_end=(1.0, 0.5),
        freeu=(0.9, 0.2, 1.3, 1.4),
    ),
    "timesteps": Settings(guidance_scale=5.0, timesteps=(999, 500, 10), scheduler="lcm"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_survive_the_form(name):
    settings = SETTINGS[name]
    values = settings_of(values_of(settings, "a man", CHOICES), CHOICES, None, image=False)
    assert values.pop("prompt") == "a man"
    if settings.height is None:
        assert (values["height"], values["width"]) == (1024, 1024)
        values |= {"height": None, "width": None}
    assert Settings(**values) == settings


def test_an_image_takes_the_shape_of_the_photo_and_a_strength():
    form = values_of(Settings(), "a man", CHOICES) | {"strength": 0.4}
    values = settings_of(form, CHOICES, (900, 700), image=True)
    assert (values["height"], values["width"], values["strength"]) == (1152, 896, 0.4)
    assert settings_of(form, CHOICES, (9, 7), image=False)["strength"] is None


def test_a_style_changes_both_prompts():
    form = values_of(Settings(negative_prompt="text"), "a man", CHOICES)
    values = settings_of(form | {"style": "Film Noir"}, CHOICES, None, image=False)
    assert "a man" in values["prompt"] != "a man"
    assert "text" in values["negative_prompt"] != "text"


def test_a_preset_fills_its_controls():
    assert preset_values("lightning-4", CHOICES, Settings())["steps"] == 4
    assert preset_values("off", CHOICES, Settings()) == {
        "steps": 30,
        "guidance": 5.0,
        "scheduler": "the model's own",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"more": "{"}, "more settings: not valid JSON"),
        ({"more": "[1]"}, "expected an object"),
        ({"more": '{"pag_scal": 1}'}, "pag_scale"),
        ({"seed": 1.5}, "expected a whole number"),
        ({"seed": None}, "expected a whole number"),
        ({"size": "large"}, "expected WIDTH x HEIGHT"),
        ({"guidance": -1}, "guidance_scale"),
    ],
)
def test_wrong_values_get_one_line(changes, message):
    form = values_of(Settings(), "a man", CHOICES) | changes
    with pytest.raises(InputError, match=message) as refused:
        settings_of(form, CHOICES, None, image=False)
    assert "\n" not in str(refused.value)
