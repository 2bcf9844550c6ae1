"""Authorization: tokens, or this machine alone."""

import asyncio

import pytest

from instantid_jax.errors import InputError
from instantid_jax.serving.access import check_host, read_tokens

TOKENS = ("a-token-of-16-ch", "another-long-one")


def statuses(make, headers, path="/v1/models", **options) -> list[int]:
    async def call():
        async with make(**options) as client:
            return [(await client.get(path, headers=each)).status_code for each in headers]

    return asyncio.run(call())


def test_tokens_of_bearers_and_as_passwords(make):
    basic = "Basic eDphLXRva2VuLW9mLTE2LWNo"  # x:a-token-of-16-ch
    right = [f"Bearer {TOKENS[0]}", f"bearer {TOKENS[1]}", basic]
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        "Bearer a-token",
        TOKENS[0],
        "Basic ???",
        "Basic eDp5",
        "Bearer é",
    ]
    given = [{"authorization": value.encode()} for value in (*right, *wrong)]
    expected = [200] * len(right) + [401] * len(wrong)
    assert statuses(make, given, tokens=TOKENS) == expected
    assert statuses(make, given[-1:], "/healthz", tokens=TOKENS) == [200]
    assert statuses(make, given[-1:], "/metrics", tokens=TOKENS) == [401]
    assert statuses(make, given[-1:], "/openapi.json", tokens=TOKENS) == [401]


def test_a_refusal_says_how(make):
    async def call():
        async with make(tokens=TOKENS) as client:
            return await client.get("/v1/models")

    answer = asyncio.run(call())
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8000"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "["}, 403),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ({"host": "localhost:8000", "origin": "http://localhost:9000"}, 403),
        ({"host": "localhost:8000", "origin": "https://evil.example"}, 403),
        ({"host": "localhost:8000", "origin": "null"}, 403),
    ],
)
def test_without_tokens_pages_of_others_are_not_served(make, headers, status):
    assert statuses(make, [headers]) == [status]


def test_other_machines_need_tokens():
    for host in ("127.0.0.1", "localhost", "::1"):
        check_host(host, ())
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(InputError, match="--token-file"):
            check_host(host, ())
        check_host(host, TOKENS)


def test_token_files(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# of mine\n{TOKENS[0]}\n\n  {TOKENS[1]} \n")
    assert read_tokens(path) == TOKENS
    for text in ("", "# nothing\n", "short\n", f"{TOKENS[0]}\nhas a blank in it\n", "é" * 20):
        path.write_text(text)
        with pytest.raises(InputError, match="token") as raised:
            read_tokens(path)
        assert TOKENS[0] not in str(raised.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_tokens(tmp_path)
