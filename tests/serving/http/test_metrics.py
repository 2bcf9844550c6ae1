"""Metrics and health."""

import asyncio

from tests.serving.http.conftest import png


def test_metrics_count_requests_and_images(make):
    async def call():
        async with make() as client:
            files = {"image": ("me.png", png())}
            await client.post("/v1/images/edits", data={"prompt": "a", "n": "2"}, files=files)
            await client.post("/v1/images/edits", data={"promp": "a"}, files=files)
            for i in range(20):
                await client.get(f"/v1/{i}")
            return (await client.get("/metrics")).text

    lines = asyncio.run(call()).splitlines()
    assert 'instantid_requests_total{route="/v1/images/edits",status="200"} 1.0' in lines
    assert 'instantid_requests_total{route="/v1/images/edits",status="400"} 1.0' in lines
    assert 'instantid_requests_total{route="other",status="404"} 20.0' in lines
    assert "instantid_images_total 2.0" in lines and "instantid_ready 1.0" in lines
    assert "instantid_engine_waiting 0.0" in lines and "instantid_seconds_count 1.0" in lines
    assert 'instantid_engine_steps{kind="2"} 3.0' in lines


def test_health_says_when_requests_are_served(make):
    async def call():
        found = []
        for state in ({"ready": False}, {}, {"draining": True}):
            async with make(**state) as client:
                paths = ("/healthz", "/readyz")
                found.append([(await client.get(path)).status_code for path in paths])
        return found

    assert asyncio.run(call()) == [[200, 503], [200, 200], [200, 503]]


def test_a_dead_engine_is_not_healthy(make, engine):
    async def call():
        async with make() as client:
            engine.dead = True
            return (await client.get("/healthz")).status_code

    assert asyncio.run(call()) == 500


def test_the_api_is_described(make):
    async def call():
        async with make() as client:
            return [await client.get("/openapi.json"), await client.get("/docs")]

    described, page = asyncio.run(call())
    assert {"/v1/images/edits", "/v1/faces", "/sdapi/v1/txt2img"} <= described.json()[
        "paths"
    ].keys()
    assert page.status_code == 404
