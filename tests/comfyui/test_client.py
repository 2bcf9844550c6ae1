"""The nodes with a service."""

import json
import threading

import numpy as np
import pytest
import torch

from comfyui.client import SERVER, TOKEN, Service
from comfyui.face_nodes import AnalyzeFace
from comfyui.images import to_tensor
from comfyui.model_nodes import Connect
from instantid_jax import InputError
from tests.comfyui.comfy_stand_in import Interrupted
from tests.comfyui.service import answer, serving
from tests.pipeline import small_model

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), np.uint8)
PHOTOS = to_tensor(PIXELS)
# The form of widgets as they are first shown.
USUAL = {
    "prompt": "a cartoon",
    "negative_prompt": "",
    "ip_adapter_scale": "0.8",
    "controlnet_conditioning_scale": "0.8",
    "ip_adapter_start": "0.0",
    "ip_adapter_end": "1.0",
    "control_guidance_start": "0.0",
    "control_guidance_end": "1.0",
    "negative_id_noise": "0.0",
    "num_inference_steps": "30",
    "seed": "0",
    "n": "1",
    "size": "auto",
    "response_format": "b64_json",
    "output_format": "png",
    "stream": "true",
}
COMPLETED = b"event: image_edit.completed\ndata: %s\n\n"


@pytest.fixture
def service(monkeypatch, host):
    for name in (SERVER, TOKEN, "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving() as started:
        yield started


@pytest.fixture
def connected(service):
    """The model of the Connect node."""
    return Connect.execute(service.url).args[0]


def test_photos_and_a_prompt_are_enough(service, connected, generate, host):
    images, provenance = generate(connected, image=PHOTOS)
    assert torch.equal(images, torch.ones(1, 4, 6, 3))
    assert json.loads(provenance) == [{"seed": 7, "parameters": "seed=7"}]
    (asked,) = service.asked
    assert asked.path == "/v1/images/edits" and asked.headers["Authorization"] is None
    assert asked.fields == USUAL
    assert host.progress == [(1, 2, None), (2, 2, None)]
    assert [name for name, _ in asked.files] == ["image[]", "image[]"]
    np.testing.assert_array_equal([pixels for _, pixels in asked.files], PIXELS)


def test_every_input_has_its_field(service, connected, generate):
    service.answer = answer(3, 4)
    images, provenance = generate(
        connected,
        image=PHOTOS,
        negative_prompt="blurry, \N{SNOWMAN}",
        ip_weight=0.5,
        cn_strength=1.25,
        start_at=0.125,
        end_at=0.75,
        noise=0.25,
        seed=3,
        steps=8,
        cfg=3.0,
        sampler_name="dpmpp_2m",
        scheduler="karras",
        denoise=0.5,
        width=512,
        height=768,
        batch_size=2,
        image_kps=PHOTOS[:1],
        kps_image=PHOTOS[1:],
        source=PHOTOS[1:],
        mask=torch.ones(1, 8, 6),
        source_mask=torch.full((1, 8, 6), 0.2),
    )
    assert images.shape == (2, 4, 6, 3)
    assert [each["seed"] for each in json.loads(provenance)] == [3, 4]
    (asked,) = service.asked
    assert asked.fields == USUAL | {
        "negative_prompt": "blurry, \N{SNOWMAN}",
        "ip_adapter_scale": "0.5",
        "controlnet_conditioning_scale": "1.25",
        "ip_adapter_start": "0.125",
        "ip_adapter_end": "0.75",
        "control_guidance_start": "0.125",
        "control_guidance_end": "0.75",
        "negative_id_noise": "0.25",
        "seed": "3",
        "num_inference_steps": "8",
        "guidance_scale": "3.0",
        "scheduler": "dpmpp_2m_karras",
        "strength": "0.5",
        "size": "512x768",
        "n": "2",
    }
    files = dict(asked.files)
    assert sorted(files) == ["control_mask", "image[]", "kps_image", "mask", "pose", "source"]
    np.testing.assert_array_equal(files["pose"], PIXELS[0])
    for name in ("source", "kps_image"):
        np.testing.assert_array_equal(files[name], PIXELS[1])
    assert (files["control_mask"] == 255).all() and (files["mask"] == 51).all()


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"face": small_model.person(0)}, "a service takes photos"),
        ({"image": PHOTOS, "combine_embeds": "norm average"}, "a service averages photos"),
    ],
)
def test_what_the_service_does_not_take_is_not_sent(inputs, message, service, connected, generate):
    with pytest.raises(InputError, match=message):
        generate(connected, **inputs)
    assert not service.asked


def test_faces_are_measured_by_the_service_alone(connected):
    with pytest.raises(InputError, match="a service measures faces itself"):
        AnalyzeFace.execute(connected, image=PHOTOS, combine_embeds="average")


def test_canceling_hangs_up(service, connected, generate, host):
    service.holds = True

    def cancel():
        service.arrived.wait(20)
        host.interrupted = True

    canceling = threading.Thread(target=cancel)
    canceling.start()
    with pytest.raises(Interrupted):
        generate(connected, image=PHOTOS)
    canceling.join()
    assert service.left.wait(20)
    service.holds = False
    assert generate(connected, image=PHOTOS)[0].shape == (1, 4, 6, 3)


@pytest.mark.parametrize(
    "status, body, message",
    [
        (400, b'{"error": {"message": "no face in 0.png"}}', "answered 400: no face in 0.png"),
        (503, b'{"error": {"message": "the queue is full"}}', "answered 503: the queue is full"),
        (404, b"<html>nothing here</html>", "answered 404: <html>nothing here</html>"),
        (500, b"", "answered 500: Internal Server Error"),
        (500, b'{"error": "broken"}', 'answered 500: {"error": "broken"}'),
        (200, b"<html>", "did not answer with images (no image came)"),
        (200, b'{"data": []}', "did not answer with images (no image came)"),
        (200, COMPLETED % b"{", "did not answer with images"),
        (200, COMPLETED % b"[]", "did not answer with images"),
        (200, COMPLETED % b'{"url": "http://a/b.png"}', "did not answer with images"),
        (200, COMPLETED % b'{"b64_json": "QUJD"}', "did not answer with images"),
        (200, COMPLETED % b'{"b64_json": "A"}', "did not answer with images"),
        (
            200,
            b': step 1/2\n\nevent: error\ndata: {"error": {"message": "canceled"}}\n\n',
            "canceled",
        ),
    ],
)
def test_refusals_and_other_services_are_one_line(
    status, body, message, service, connected, generate
):
    service.status, service.answer = status, body
    with pytest.raises(InputError) as raised:
        generate(connected, image=PHOTOS)
    assert str(raised.value).startswith(service.url) and message in str(raised.value)


def test_a_service_that_is_not_there_is_one_line(generate):
    with serving() as ended:
        url = ended.url
    with pytest.raises(InputError, match="start `instantid serve` there") as raised:
        generate(Service(url), image=PHOTOS)
    assert str(raised.value).startswith(f"{url} cannot be reached (")


@pytest.mark.parametrize("address", ["", "localhost:8000", "file:///etc/passwd"])
def test_other_addresses_are_refused(address, monkeypatch):
    monkeypatch.delenv(SERVER, raising=False)
    with pytest.raises(InputError, match="expected an address such as http://"):
        Connect.execute(address)


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_the_token_is_for_the_environments_server_alone(ending, service, generate, monkeypatch):
    monkeypatch.setenv(TOKEN, "secret")
    monkeypatch.setenv(SERVER, service.url + ending)
    for given in ("", service.url):
        generate(Connect.execute(given).args[0], image=PHOTOS)
    monkeypatch.setenv(SERVER, "http://127.0.0.1:1")
    generate(Service(service.url), image=PHOTOS)
    sent = [asked.headers["Authorization"] for asked in service.asked]
    assert sent == ["Bearer secret", "Bearer secret", None]
