"""The `openai` client against the service, over a socket."""

import base64
import io

import openai
import pytest
from PIL import Image

from tests.serving.http.conftest import decoded, png, text64
from tests.serving.http.running import running

TOKEN = "a-token-of-16-ch"


@pytest.fixture(scope="module")
def client():
    limits = {"idle_seconds": 30}
    with running(limits=limits, tokens=[TOKEN]) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0) as client:
            client.url = server.url
            yield client
        assert server.process.poll() is None


def photo(color="red") -> tuple[str, io.BytesIO, str]:
    return "me.png", io.BytesIO(png(color)), "image/png"


def test_one_photo(client):
    made = client.images.edit(
        image=photo(), prompt="snow", extra_body={"seed": 7, "ip_adapter_scale": 0.5}
    )
    assert decoded(made.data[0].b64_json).getpixel((0, 0)) == (7, 0, 7)
    assert made.data[0].model_extra["seed"] == 7
    assert made.model_extra["instantid"]["seeds"] == [7]


def test_several_photos_and_all_of_its_parameters(client):
    made = client.images.edit(
        image=[photo(), photo("blue")],
        prompt="snow",
        model="gpt-image-1",
        n=2,
        size="128x64",
        background="auto",
        input_fidelity="high",
        quality="high",
        output_format="webp",
        output_compression=70,
        response_format="b64_json",
        user="me",
        extra_body={"timesteps": [999, 500], "prompt_weighting": False},
    )
    images = [decoded(each.b64_json) for each in made.data]
    assert [(each.format, each.size) for each in images] == [("WEBP", (128, 64))] * 2
    ignored = made.model_extra["instantid"]["ignored"]
    assert {*ignored} == {"model", "background", "input_fidelity", "quality", "user"}


def test_generations_name_the_person_in_extra_fields(client):
    body = {"image": text64(png("red")), "seed": 3}
    made = client.images.generate(prompt="snow", size="64x64", extra_body=body)
    assert made.data[0].model_extra["seed"] == 3


def test_a_kept_face(client):
    kept = client.post("/faces", body={"image": text64(png())}, cast_to=object)
    body = {"face_id": kept["id"]}
    assert client.images.generate(prompt="snow", extra_body=body).data[0].b64_json


@pytest.mark.parametrize("kind", ["edit", "generate"])
def test_streams(client, kind):
    if kind == "edit":
        events = client.images.edit(image=photo(), prompt="a", stream=True, partial_images=2)
    else:
        body = {"image": text64(png())}
        call = client.images.generate
        events = call(prompt="a", stream=True, partial_images=2, extra_body=body)
    found = list(events)
    prefix = "image_edit" if kind == "edit" else "image_generation"
    names = [f"{prefix}.partial_image"] * 2 + [f"{prefix}.completed"]
    assert [each.type for each in found] == names
    assert [each.partial_image_index for each in found[:2]] == [0, 1]
    assert Image.open(io.BytesIO(base64.b64decode(found[2].b64_json))).size == (64, 64)


def test_errors(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(image=photo(), prompt="a", extra_body={"ip_adapter_scal": 1})
    assert raised.value.param == "ip_adapter_scal"
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(image=photo("black"), prompt="a")
    assert (raised.value.param, raised.value.code) == ("image", "no_face")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("dall-e-2")
    with openai.OpenAI(base_url=client.base_url, api_key="wrong", max_retries=0) as other:
        with pytest.raises(openai.AuthenticationError):
            other.models.list()
    assert [model.id for model in client.models.list()] == ["instantid"]
