"""OpenAI's images API, on an engine that draws."""

import asyncio
import base64
import json

import numpy as np
import pytest
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.request import Request
from instantid_jax.serving.http.fields import NAMES
from instantid_jax.serving.http.limits import Limits
from instantid_jax.serving.http.sizes import Sizes
from instantid_jax.serving.job import DeadlineError
from tests.pipeline import small_model
from tests.serving.http.conftest import decoded, png, text64

EDITS, GENERATIONS = "/v1/images/edits", "/v1/images/generations"


def post(make, path=EDITS, *, data=None, files=None, body=None, **options):
    """The answer to one request; with a photo if nothing says who is shown."""

    async def call():
        async with make(**options) as client:
            if body is not None:
                return await client.post(path, json=body)
            given = [("image", ("me.png", png("red")))] if files is None else files
            return await client.post(path, data={"prompt": "snow", **(data or {})}, files=given)

    return asyncio.run(call())


def events(text: str) -> list[tuple[str, dict]]:
    """The events of a stream; comments are left out."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if "data" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_photos_and_a_prompt_make_an_image(make, engine):
    files = [("image[]", ("a.png", png("red"))), ("image[]", ("b.png", png("blue")))]
    data = {"seed": "7", "ip_adapter_scale": "0.5", "guess_mode": "true"}
    answer = post(make, data=data, files=files)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    (entry,) = body["data"]
    image = decoded(entry["b64_json"])
    assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (64, 64), (7, 0, 7))
    assert (entry["seed"], body["size"], body["output_format"]) == (7, "64x64", "png")
    assert body["instantid"]["seeds"] == [7] and body["instantid"]["ignored"] == {}
    (request,) = engine.requests
    assert (request.prompt, request.ip_adapter_scale, request.guess_mode) == ("snow", 0.5, True)
    np.testing.assert_allclose(request.face.embedding[:3], [127.5, 0, 127.5])
    assert answer.headers["cache-control"] == "no-store"


def test_json_takes_photos_in_base64_and_types_of_json(make, engine):
    body = {
        "prompt": "snow",
        "image": [text64(png("red")), f"data:image/png;base64,{text64(png('red'))}"],
        "n": 2,
        "seed": 5,
        "size": "128x64",
        "output_format": "jpeg",
        "output_compression": 50,
        "timesteps": [999, 500],
        "user": "somebody",
        "model": "dall-e-2",
        "style": "vivid",
        "negative_prompt": None,
    }
    answer = post(make, GENERATIONS, body=body)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert [entry["seed"] for entry in made["data"]] == [5, 6]
    images = [decoded(entry["b64_json"]) for entry in made["data"]]
    assert [(each.format, each.size) for each in images] == [("JPEG", (128, 64))] * 2
    assert {*made["instantid"]["ignored"]} == {"user", "model", "style"}
    (request,) = engine.requests
    assert request.timesteps == (999, 500) and (request.height, request.width) == (64, 128)


def test_seeds_differ_where_none_is_given(make, engine):
    for _ in range(2):
        assert post(make).status_code == 200
    first, second = engine.requests
    assert first.seed != second.seed


def test_the_size_is_the_compiled_one_of_the_photos_shape(make, engine):
    for size, expected in (((300, 600), (128, 64)), ((600, 299), (64, 128)), ((99, 100), (64, 64))):
        files = [("image", ("me.png", png("red", size=size)))]
        assert post(make, files=files, data={"size": "auto"}).status_code == 200
        assert (engine.requests[-1].height, engine.requests[-1].width) == expected


@pytest.mark.parametrize(
    ("size", "others", "status"),
    [
        ("64x128", False, 200),
        ("64x72", False, 400),
        ("64x72", True, 200),
        ("64x70", True, 400),
        ("8192x8192", True, 400),
        ("64", True, 400),
        ("../../etc", True, 400),
        ("¹²x64", True, 400),
    ],
)
def test_only_sizes_that_are_served(make, size, others, status):
    sizes = Sizes(((64, 64), (128, 64)), others)
    answer = post(make, data={"size": size}, sizes=sizes)
    assert answer.status_code == status
    if status == 400:
        error = answer.json()["error"]
        assert error["param"] == "size" and error["type"] == "invalid_request_error"


def test_a_default_person_stands_in_for_photos(make, engine):
    me = small_model.person(0, image_size=(64, 128))
    assert post(make, files=[], default=me).status_code == 200
    assert engine.requests[0].face is me
    answer = post(make, files=[])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_person")


def test_images_to_change_poses_and_masks(make, engine):
    files = [
        ("image", ("me.png", png("red"))),
        ("source", ("a.png", png("green", size=(128, 64)))),
        ("mask", ("m.png", png((9, 9, 9, 0), size=(128, 64), mode="RGBA"))),
        ("control_mask", ("c.png", png("white"))),
        ("pose", ("p.png", png("blue", size=(32, 16)))),
    ]
    assert post(make, data={"strength": "0.6"}, files=files).status_code == 200
    (request,) = engine.requests
    assert request.image.shape == (64, 128, 3) and request.strength == 0.6
    # Transparent is what OpenAI's masks change, and white what ours do.
    assert (request.mask_image == 255).all() and (request.control_mask == 255).all()
    assert request.pose.image_size == (16, 32)
    assert (request.height, request.width) == (64, 128)
    assert post(make, files=files[:2]).status_code == 200
    assert engine.requests[1].pose.image_size == (64, 128)


def test_repainted_images_have_the_sources_size(make):
    files = [
        ("image", ("me.png", png())),
        ("source", ("a.png", png("green", size=(96, 80)))),
        ("mask", ("m.png", png("white", size=(96, 80)))),
    ]
    answer = post(make, files=files).json()
    assert decoded(answer["data"][0]["b64_json"]).size == (96, 80) and answer["size"] == "96x80"
    ((_, event),) = events(post(make, data={"stream": "true"}, files=files).text)
    assert event["size"] == "96x80"


def test_images_do_not_record_whose_they_are(make, tmp_path):
    answer = post(make, data={"seed": "7"})
    path = tmp_path / "out.png"
    data = answer.json()["data"][0]["b64_json"]
    path.write_bytes(base64.b64decode(data))
    text = Image.open(path).text["instantid"]
    assert "embedding" not in text and "/secret" not in text
    assert json.loads(text)["request"]["seed"] == 7
    with pytest.raises(InputError, match="made with face, which its file does not record"):
        Request.from_image(path)
    again = Request.from_image(path, face=small_model.person(0))
    assert (again.prompt, again.seed) == ("snow", 7)


@pytest.mark.parametrize("path", [EDITS, GENERATIONS])
def test_streams_previews_steps_and_the_images(make, path):
    data = {"stream": "true", "partial_images": "2", "n": "2", "seed": "3"}
    data["num_inference_steps"] = "4"
    answer = post(make, path, data=data)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    found = events(answer.text)
    prefix = "image_edit" if path == EDITS else "image_generation"
    names = [f"{prefix}.partial_image"] * 2 + [f"{prefix}.completed"] * 2
    assert [name for name, _ in found] == names == [event["type"] for _, event in found]
    assert [event["partial_image_index"] for _, event in found[:2]] == [0, 1]
    assert decoded(found[0][1]["b64_json"]).size == (64, 64)
    assert [event["seed"] for _, event in found[2:]] == [3, 4]
    assert decoded(found[3][1]["b64_json"]).getpixel((0, 0)) == (4, 0, 7)
    assert ": step 4/4" in answer.text


def test_what_fails_in_a_stream_is_an_event(make, engine):
    engine.error = InputError("the latents after step 3 of seed 7 are not finite")
    answer = post(make, data={"stream": "true"})
    ((name, event),) = events(answer.text)
    assert answer.status_code == 200 and name == "error"
    assert event["error"]["type"] == "server_error" and "not finite" in event["error"]["message"]


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [
        (DeadlineError("late"), 504, "server_error"),
        (InputError("the latents are not finite"), 500, "server_error"),
        (RuntimeError("RESOURCE_EXHAUSTED: 5 GB"), 503, "server_error"),
        (RuntimeError("a bug that says /secret"), 500, "server_error"),
        (KeyError("a bug that says /secret"), 500, "server_error"),
    ],
)
def test_failures_have_their_status(make, engine, error, status, type_):
    engine.error = error
    answer = post(make)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, type_)
    assert "/secret" not in answer.text


def test_a_full_queue_and_a_refusal_of_the_model(make, engine):
    engine._most = 0
    answer = post(make)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    engine._most = 64
    answer = post(make, data={"prompt": "refused"})
    assert answer.status_code == 400 and "the model does not take it" in answer.text


def test_nothing_is_made_before_the_sizes_are_compiled(make, engine):
    answer = post(make, ready=False)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert not engine.requests


def test_requests_of_one_token_are_limited(make, engine):
    async def call():
        limits = Limits(requests=3, requests_per_token=2)
        tokens = ("a" * 16, "b" * 16)
        async with make(tokens=tokens, limits=limits) as client:

            def ask(token):
                headers = {"Authorization": f"Bearer {token * 16}"}
                files = {"image": ("me.png", png())}
                return client.post(EDITS, data={"prompt": "a"}, files=files, headers=headers)

            engine.gate.clear()
            running = [asyncio.create_task(ask(token)) for token in "aab"]
            while len(engine.requests) < 3:
                await asyncio.sleep(0.01)
            assert (await ask("b")).status_code == 503
            running[2].cancel()
            while client.service.admission.count == 3:
                await asyncio.sleep(0.01)
            refused = await ask("a")
            assert refused.status_code == 429
            assert refused.json()["error"]["type"] == "rate_limit_error"
            engine.gate.set()
            assert [(await each).status_code for each in running[:2]] == [200, 200]

    asyncio.run(call())


def test_models(make):
    async def call():
        async with make() as client:
            listed = (await client.get("/v1/models")).json()
            one = (await client.get("/v1/models/instantid")).json()
            return listed, one, (await client.get("/v1/models/dall-e-2")).status_code

    listed, one, other = asyncio.run(call())
    assert listed == {"object": "list", "data": [one]} and one["id"] == "instantid"
    assert other == 404


def test_errors_of_routes_have_openais_shape(make):
    async def call():
        async with make() as client:
            return [await client.get(EDITS), await client.get("/nowhere")]

    wrong_method, nowhere = asyncio.run(call())
    assert (wrong_method.status_code, nowhere.status_code) == (405, 404)
    assert {*nowhere.json()["error"]} == {"message", "type", "param", "code"}


def test_other_kinds_of_bodies_are_refused(make):
    async def call(**options):
        async with make() as client:
            return await client.post(EDITS, **options)

    for kind in ("text/plain", "image/png", ""):
        answer = asyncio.run(call(content=b"prompt=a", headers={"content-type": kind}))
        assert answer.status_code == 415
    for content in (b"{", b"[]", b"[" * 10**5, b"\xff"):
        headers = {"content-type": "application/json"}
        assert asyncio.run(call(content=content, headers=headers)).status_code == 400
    nameless = b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n"
    for content in (b"", nameless, b"--x\r\n"):
        headers = {"content-type": "multipart/form-data; boundary=x"}
        assert asyncio.run(call(content=content, headers=headers)).status_code == 400
    headers = {"content-type": "multipart/form-data"}
    assert asyncio.run(call(content=b"a", headers=headers)).status_code == 400


def test_open_webuis_requests(make, engine):
    size, model = "64x64", "gpt-image-1"
    own = {"image": text64(png()), "ip_adapter_scale": 0.5}
    common = {"model": model, "prompt": "snow", "n": 1, "size": size}
    body = {**common, "response_format": "b64_json", **own}
    answer = post(make, GENERATIONS, body=body)
    assert answer.status_code == 200 and decoded(answer.json()["data"][0]["b64_json"])
    data = {**common, "n": "1", "background": "auto", "response_format": "b64_json"}
    for name in ("image", "image[]"):
        files = [(name, ("a.png", png(), "image/png"))] * (2 if name == "image[]" else 1)
        answer = post(make, data=data, files=files)
        assert answer.status_code == 200 and decoded(answer.json()["data"][0]["b64_json"])


# Values of wrong types and sizes; whole numbers of any length are JSON.
STRANGE = (10**4000, -(10**400), [[10**400] * 2] * 5, [1e400], {"a": [None]}, [[[[]]]], "\ud800")


def test_strange_values_of_any_field_are_refused_in_one_line(make):
    names = sorted({*NAMES} - {"image"})

    async def call():
        async with make() as client:
            for name in names:
                for value in STRANGE:
                    body = {"prompt": "a", "image": text64(png()), name: value}
                    answer = await client.post(
                        EDITS,
                        content=json.dumps(body),
                        headers={"Content-Type": "application/json"},
                    )
                    yield name, answer

    async def check():
        refused = 0
        async for name, answer in call():
            assert answer.status_code in (200, 400), (name, answer.text[:300])
            if answer.status_code == 400:
                message = answer.json()["error"]["message"]
                assert "\n" not in message and len(message) < 500, name
                refused += 1
        return refused

    assert asyncio.run(check()) > 6 * len(names)
