"""A crowd: two hundred connections at a time, some of which say nothing."""

import asyncio
import collections
import random

import httpx

from benchmarks.soaking.good import MADE, PORTRAIT
from benchmarks.soaking.rules import Violation, judge, read_images
from benchmarks.soaking.server import SIDE
from benchmarks.soaking.site import EDITS, PATIENCE, Site, fields
from benchmarks.soaking.wire import CLOSED

COUNT = 200
# One thread sends all bodies: on a busy machine the last of them may be too slow.
SENT = MADE | {408}


def crowd(site: Site, rng: random.Random) -> collections.Counter[str]:
    """Good requests of several tokens, wrong ones, and connections with half a request or none."""

    async def good(client: httpx.AsyncClient, token: int, data: dict[str, str]) -> str:
        headers = site.bearer(token)
        answer = await client.post(EDITS, data=data, files={"image": PORTRAIT}, headers=headers)
        called = judge(answer, SENT)
        if answer.status_code == 200:
            (pixels,) = read_images(answer, 1, SIDE)
            site.references.compare(tuple(data.values()), pixels)
        return called

    async def wrong(client: httpx.AsyncClient, token: int) -> str:
        headers, data = site.bearer(token), {"prompt": "a", "seed": "many"}
        answer = await client.post(EDITS, data=data, headers=headers)
        return judge(answer, {400, 408}, param="seed")

    async def idle(sent: bytes) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        try:
            writer.write(sent)
            async with asyncio.timeout(CLOSED):
                await reader.read()
        except TimeoutError as error:
            raise Violation("an idle connection of a crowd is not closed") from error
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
        return "closed"

    async def one(client: httpx.AsyncClient, i: int) -> str:
        if i % 5 == 0:
            head = site.head(EDITS, 1, "Content-Type: application/json")
            return await idle(head[: rng.choice((0, 10, len(head) - 2))])
        if i % 5 == 1:
            return await wrong(client, 1 + i % 4)
        return await good(client, 1 + i % 4, fields(rng))

    async def all_of_them() -> list[str]:
        limits = httpx.Limits(max_connections=COUNT, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=site.server.url, limits=limits, timeout=PATIENCE, trust_env=False
        ) as client:
            return await asyncio.gather(*(one(client, i) for i in range(COUNT)))

    return collections.Counter(asyncio.run(all_of_them()))
