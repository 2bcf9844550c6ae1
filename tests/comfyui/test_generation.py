"""The widgets of the Generate node in the library's terms."""

import pytest

from comfyui.generate_node import Generate
from comfyui.generation import SAMPLERS, SCHEDULERS, Generation, sampler_of, settings_of
from instantid_jax import InputError
from instantid_jax.diffusion.names import SAMPLERS as NAMES
from instantid_jax.request import Settings
from tests.comfyui.conftest import defaults
from tests.pipeline import small_model

WIDGETS = defaults(Generate)


def test_widgets_as_they_are_first_shown_are_the_default_settings():
    assert settings_of(WIDGETS) == Settings()


def test_every_widget_has_its_setting():
    settings = settings_of(
        WIDGETS
        | {
            "negative_prompt": "blurry",
            "ip_weight": 0.5,
            "cn_strength": 0.6,
            "noise": 0.35,
            "seed": 9,
            "steps": 4,
            "cfg": 3.0,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 0.7,
            "width": 512,
            "height": 768,
            "batch_size": 2,
            "source": object(),
        }
    )
    assert settings == Settings(
        negative_prompt="blurry",
        ip_adapter_scale=0.5,
        controlnet_conditioning_scale=0.6,
        negative_id_noise=0.35,
        seed=9,
        num_inference_steps=4,
        guidance_scale=3.0,
        scheduler="dpmpp_2m_karras",
        strength=0.7,
        width=512,
        height=768,
        num_images_per_prompt=2,
    )


def test_samplers_and_spacings_give_all_names_of_the_library():
    made = {sampler_of(name, spacing) for name in SAMPLERS[1:] for spacing in SCHEDULERS}
    assert made >= set(NAMES)
    assert sampler_of("checkpoint", "normal") is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"scheduler": "karras"}, "scheduler='karras' with sampler_name='checkpoint'"),
        ({"sampler_name": "lcm", "scheduler": "karras"}, "scheduler='lcm_karras'"),
        ({"denoise": 0.5}, "denoise=0.5 without source"),
        ({"width": 512}, "give both or neither"),
        ({"width": 513, "height": 512}, "multiple of 8"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        settings_of(WIDGETS | changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"start_at": 0.5, "end_at": 0.5}, "start_at=0.5 must be below end_at=0.5"),
        ({}, "neither of image and face connected"),
        ({"face": small_model.person(0), "photos": (object(),)}, "both of image and face"),
    ],
)
def test_generations_without_a_person_or_a_window_are_refused(changes, message):
    whole = {"prompt": "", "settings": Settings(), "start_at": 0.0, "end_at": 1.0}
    whole |= {"photos": (), "face": None, "combine_embeds": "average", "image_kps": None}
    with pytest.raises(InputError, match=message):
        Generation(**whole | {"images": {}} | changes)
