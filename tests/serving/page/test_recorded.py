"""Settings that an image records fill the form again."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from instantid_jax import InputError
from instantid_jax.image_files import save_image
from instantid_jax.pipeline.sources import Sources
from instantid_jax.request import Request
from instantid_jax.request.provenance import Provenance
from instantid_jax.serving.page.form import settings_of, values_of
from instantid_jax.serving.page.recorded import read_recorded
from instantid_jax.serving.page.studio import Studio


def write(path, request, image=0, **facts):
    facts = {"version": "0", "scheduler": "euler"} | facts
    text = Provenance(request, image, facts=facts).to_text({})
    save_image(Image.new("RGB", (8, 8)), path, text=text)
    return str(path)


@pytest.fixture
def read(choices, studio: Studio):
    def call(path):
        return read_recorded(path, choices, studio.shelf, Sources())

    return call


def test_the_form_makes_the_image_again(read, choices, person, tmp_path):
    request = Request(
        *("a person",),
        face=person.face,
        height=64,
        width=96,
        seed=3,
        num_images_per_prompt=4,
        guidance_scale=3.0,
        pag_scale=2.0,
    )
    weights = vars(Sources(loras=["miniature-4:0.5"]))
    recorded = read(write(tmp_path / "a.png", request, 2, weights=weights))
    given = settings_of(recorded.values, choices, None, image=False)
    expected = dataclasses.replace(request.settings, seed=5, num_images_per_prompt=1)
    assert given == {**expected.values(), "prompt": "a person"}
    assert recorded.strengths == {"miniature-4": 0.5} and not recorded.remarks
    np.testing.assert_array_equal(recorded.face.embedding, person.face.embedding)


def test_what_is_not_there_is_said(read, person, tmp_path):
    image = np.zeros((64, 64, 3), np.uint8)
    request = Request("a", face=person.face, pose=person.face, image=image, seed=1)
    request = dataclasses.replace(request, kps_image="/etc/hostname")
    weights = vars(Sources(sdxl="a", instantid="b", loras=["ink.safetensors"]))
    recorded = read(write(tmp_path / "a.png", request, weights=weights))
    missing, lora, other = recorded.remarks
    assert (
        missing == "a.png was made with image, kps_image, which it does not record: give it again."
    )
    assert lora == "a.png was made with the LoRA ink.safetensors, not loaded here."
    assert other == "a.png was made with other weights: images will differ."
    pose = Request("a", face=person.face, pose=person.face)
    (remark,) = read(write(tmp_path / "b.png", pose)).remarks
    assert remark == "b.png was made with a pose: give its photo again."


def test_images_of_other_programs_are_read_or_refused(read, choices, tmp_path):
    text = {"parameters": "a person\nNegative prompt: rain\nSteps: 8, Seed: 11, CFG scale: 3"}
    save_image(Image.new("RGB", (8, 8)), tmp_path / "webui.png", text=text)
    recorded = read(str(tmp_path / "webui.png"))
    values = recorded.values
    assert (values["prompt"], values["negative_prompt"]) == ("a person", "rain")
    assert (values["steps"], values["seed"], values["guidance"]) == (8, 11, 3.0)
    assert recorded.face is None and recorded.strengths is None
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("x")
    for name, message in (("plain", "does not say how it was made"), ("text", "is not an image")):
        with pytest.raises(InputError, match=message) as refused:
            read(str(tmp_path / f"{name}.png"))
        assert str(tmp_path) not in str(refused.value)


def test_defaults_need_no_json(choices):
    assert values_of(Request("a").settings, "a", choices)["more"] == ""
