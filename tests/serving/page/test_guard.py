"""Access to the page, and addresses that its server never fetches."""

import asyncio

import httpx
import pytest

from instantid_jax.serving.page.guard import HEADERS, Guarded, login

TOKENS = ("a-token-of-16-ch", "another-long-one")


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def get(path: str = "/", *, local: bool = True, **headers: str) -> httpx.Response:
    async def call():
        transport = httpx.ASGITransport(Guarded(hello, local=local))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:7860"
        ) as client:
            return await client.get(path, headers=headers)

    return asyncio.run(call())


def test_pages_load_nothing_from_elsewhere():
    answer = get()
    assert answer.status_code == 200
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert get("/gradio_api/file=http://evil.example/x").status_code == 403


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}])
def test_without_tokens_only_this_machine_is_served(headers):
    assert get(**headers).status_code == 403
    assert get(local=False, **headers).status_code == 200


def test_a_token_is_the_password_of_every_name():
    assert login(()) is None
    check = login(TOKENS)
    assert check("anybody", TOKENS[0]) and check("", TOKENS[1])
    assert not any(check("anybody", wrong) for wrong in ("", TOKENS[0][:-1], "é"))
