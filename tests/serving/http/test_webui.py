"""Routes of AUTOMATIC1111's web UI, with the bodies that its clients send."""

import asyncio
import json

import pytest

from instantid_jax.serving.http.webui import RENAMED
from tests.pipeline import small_model
from tests.serving.http.conftest import decoded, png, text64

TXT2IMG = "/sdapi/v1/txt2img"
# Open WebUI's fields.
OPEN_WEBUI = {
    "prompt": "snow",
    "batch_size": 2,
    "width": 64,
    "height": 128,
    "steps": 3,
    "negative_prompt": "rain",
}
# SillyTavern's.
SILLY_TAVERN = {
    "prompt": "snow",
    "negative_prompt": "",
    "sampler_name": "DPM++ 2M",
    "scheduler": "karras",
    "steps": 3,
    "cfg_scale": 4,
    "width": 64,
    "height": 64,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "seed": -1,
    "clip_skip": 1,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
}


def ask(make, body, **options):
    async def call():
        async with make(**{"default": small_model.person(0), **options}) as client:
            return await client.post(TXT2IMG, json=body)

    return asyncio.run(call())


def test_open_webuis_request(make, engine):
    answer = ask(make, OPEN_WEBUI)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [decoded(each).size for each in body["images"]] == [(64, 128)] * 2
    info = json.loads(body["info"])
    assert info["all_seeds"] == list(engine.requests[0].seeds)
    assert decoded(body["images"][1]).text["parameters"] == info["infotexts"][1]
    assert "Steps: 3" in info["infotexts"][0] and body["parameters"]["steps"] == 3


def test_silly_taverns_request(make, engine):
    for _ in range(2):
        assert ask(make, SILLY_TAVERN).status_code == 200
    first, second = engine.requests
    assert first.scheduler == "dpmpp_2m_karras" and first.guidance_scale == 4
    assert first.negative_prompt is None and first.seed != second.seed


def test_fields_of_ours_name_the_person(make, engine):
    own = {"image": text64(png("red")), "ip_adapter_scale": 0.3}
    body = {**OPEN_WEBUI, "alwayson_scripts": {"instantid": {"args": [own]}, "other": {}}}
    assert ask(make, body, default=None).status_code == 200
    (request,) = engine.requests
    assert request.face.embedding[0] == 255 and request.ip_adapter_scale == 0.3
    assert ask(make, OPEN_WEBUI, default=None).status_code == 400


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": 7},
        {"steps": "many"},
        {"batch_size": "two"},
        {"batch_size": 100},
        {"width": 72},
        {"alwayson_scripts": {"instantid": {"args": []}}},
        {"alwayson_scripts": {"instantid": 7}},
    ],
)
def test_wrong_fields_are_refused(make, change):
    assert ask(make, {**OPEN_WEBUI, **change}).status_code == 400


def test_lists_and_options(make):
    async def call():
        async with make() as client:
            names = ("samplers", "schedulers", "upscalers", "latent-upscale-modes", "sd-models")
            lists = [await client.get(f"/sdapi/v1/{name}") for name in (*names, "sd-vae")]
            options = await client.get("/sdapi/v1/options")
            chosen = {"sd_model_checkpoint": "instantid"}
            posted = await client.post("/sdapi/v1/options", json=chosen)
            return lists, options, posted, await client.get("/sdapi/v1/scripts")

    lists, options, posted, other = asyncio.run(call())
    assert all(isinstance(each.json(), list) for each in lists)
    assert "Euler a" in [each["name"] for each in lists[0].json()]
    assert options.json()["sd_model_checkpoint"] == lists[4].json()[0]["title"]
    assert (posted.status_code, other.status_code) == (200, 404)


def test_interrupting_ends_the_own_images_alone(make, engine):
    async def call():
        tokens = ("a" * 16, "b" * 16)
        async with make(tokens=tokens, default=small_model.person(0)) as client:
            mine, theirs = ({"Authorization": f"Bearer {token}"} for token in tokens)
            engine.gate.clear()
            both = [
                asyncio.create_task(client.post(TXT2IMG, json=OPEN_WEBUI, headers=headers))
                for headers in (mine, theirs)
            ]
            while len(engine.requests) < 2:
                await asyncio.sleep(0.01)
            # Its task must have noted it, too.
            while not (await progress(client, mine))["state"]["job_count"]:
                await asyncio.sleep(0.01)
            await client.post("/sdapi/v1/interrupt", headers=mine)
            ended = await both[0]
            engine.gate.set()
            return ended, await both[1], await progress(client, theirs)

    async def progress(client, headers):
        return (await client.get("/sdapi/v1/progress", headers=headers)).json()

    ended, other, after = asyncio.run(call())
    assert (ended.status_code, other.status_code) == (409, 200)
    assert after["progress"] == 0 and after["state"]["job_count"] == 0


LARGE = 10**4000


def test_strange_values_of_any_field_are_refused_or_ignored(make):
    names = (*RENAMED, "seed", "batch_size", "sampler_name", "scheduler", "alwayson_scripts")
    values = (LARGE, [[LARGE]], {"a": None}, "\ud800")
    bodies = [{name: value} for name in names for value in values]
    bodies.append({"batch_size": LARGE, "n_iter": LARGE})

    async def call():
        async with make(default=small_model.person(0)) as client:
            for body in bodies:
                content = json.dumps({"prompt": "a", "width": 64, "height": 64, **body})
                answer = await client.post(TXT2IMG, content=content)
                assert answer.status_code in (200, 400), (str(body)[:80], answer.text[:300])
                assert answer.status_code == 200 or len(answer.text) < 500

    asyncio.run(call())
