"""Bodies that are too large, too slow or too many."""

import asyncio

from instantid_jax.serving.http.limits import Limits
from tests.serving.http.conftest import png

EDITS = "/v1/images/edits"
KIND = {"content-type": "multipart/form-data; boundary=x"}


def test_large_bodies_are_refused_with_and_without_their_length(make):
    async def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(20):
            yield bytes(1000)

    async def call():
        async with make(limits=Limits(body_bytes=10_000)) as client:
            said = await client.post(EDITS, content=bytes(10_001), headers=KIND)
            unsaid = await client.post(EDITS, content=chunks(), headers=KIND)
            lied = {**KIND, "content-length": "10"}
            return said, unsaid, await client.post(EDITS, content=chunks(), headers=lied)

    for answer in asyncio.run(call()):
        assert answer.status_code == 413 and "10,000 bytes" in answer.json()["error"]["message"]


def test_slow_bodies_are_refused(make):
    async def slowly():
        yield b"--x\r\n"
        await asyncio.sleep(5)

    async def call():
        async with make(limits=Limits(body_seconds=0.05)) as client:
            return await client.post(EDITS, content=slowly(), headers=KIND), client.service

    answer, service = asyncio.run(call())
    assert answer.status_code == 408 and service.admission.count == service.budget.used == 0


def test_the_memory_of_repainted_images_is_limited(make, engine):
    """They are as large as the source, not as what is sampled."""
    files = {
        "image": ("me.png", png()),
        "source": ("s.png", png("green", (96, 96))),
        "mask": ("m.png", png("white", (96, 96))),
    }

    async def call(count):
        async with make(limits=Limits(memory_bytes=200_000)) as client:
            return await client.post(EDITS, data={"prompt": "a", "n": str(count)}, files=files)

    assert asyncio.run(call(1)).status_code == 200
    assert asyncio.run(call(8)).status_code == 503 and len(engine.requests) == 1


def test_the_memory_of_all_requests_is_limited(make, engine):
    async def call():
        limits = Limits(memory_bytes=100_000)
        async with make(limits=limits) as client:

            def ask(**more):
                files = {"image": ("me.png", png()), **more}
                return client.post(EDITS, data={"prompt": "a"}, files=files)

            source = ("s.png", png("red", (160, 160)))
            engine.gate.clear()
            first = asyncio.create_task(ask(source=source))
            while not engine.requests:
                await asyncio.sleep(0.01)
            held = client.service.budget.used
            second = await ask(source=source)
            third = asyncio.create_task(ask())
            while len(engine.requests) < 2:
                await asyncio.sleep(0.01)
            engine.gate.set()
            return held, await first, second, await third, client.service.budget.used

    held, first, second, third, left = asyncio.run(call())
    assert held > 160 * 160 * 3 and left == 0
    assert (first.status_code, second.status_code, third.status_code) == (200, 503, 200)
    assert second.headers["retry-after"]
