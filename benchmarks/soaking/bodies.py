"""Clients whose requests are wrong: each is refused with its own status, and nothing is made."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from benchmarks.soaking import photos
from benchmarks.soaking.good import PORTRAIT, TXT2IMG
from benchmarks.soaking.rules import Violation, judge, read_error
from benchmarks.soaking.server import LIMITS
from benchmarks.soaking.site import EDITS, FACES, GENERATIONS, Site, base64_text, fields
from benchmarks.soaking.wrong import EITHER, HEADERS, NOWHERE, PATHS, TYPED, VALUES, WRONG


def wrong_field(site: Site, rng: random.Random) -> str:
    """A field that is unknown, or has a wrong value, in a form."""
    name, text = rng.choice(WRONG)
    data = {**fields(rng), name: text}
    answer = site.post(EDITS, data=data, files={"image": PORTRAIT})
    return judge(answer, {400}, param=None if name in EITHER else name)


def wrong_value(site: Site, rng: random.Random) -> str:
    """A value of a wrong type, or a file that is none, in JSON."""
    name = rng.choice(TYPED)
    body = {"prompt": "a", name: rng.choice(VALUES)}
    if name == "prompt" and isinstance(body[name], str):
        body["seed"] = 1.5
    # Python's own writer has NaN and halves of characters.
    content = json.dumps(body).encode()
    answer = _post_json(site, rng.choice((EDITS, GENERATIONS)), content)
    return judge(answer, {400})


def exclusive_fields(site: Site, rng: random.Random) -> str:
    """Fields of which one is too many or too few."""
    face = {"image": PORTRAIT}
    cases: tuple[tuple[dict[str, str], dict[str, bytes]], ...] = (
        ({"face_id": "face_a"}, face),
        ({}, {**face, "mask": PORTRAIT}),
        ({"height": "64"}, face),
        ({"size": "64x64", "height": "64", "width": "64"}, face),
        ({"image": "text"}, {}),
        ({"strength": "0.5"}, face),
        ({}, {"prompt": PORTRAIT}),
        ({}, {**face, "photo": PORTRAIT}),
    )
    extra, files = rng.choice(cases)
    data = {**fields(rng), **extra}
    if "prompt" in files:
        del data["prompt"]
    return judge(site.post(EDITS, data=data, files=files), {400})


def bad_photo(site: Site, rng: random.Random) -> str:
    """A truncated file, or one that is not an image."""
    return _with_photo(site, rng, rng.choice((photos.truncated, photos.no_image))(rng), {400})


def bomb(site: Site, rng: random.Random) -> str:
    """A small file of too many pixels or bytes."""
    data = photos.bomb(rng)
    # A PNG with more pixels than its size needs can be read without them.
    return _with_photo(
        site, rng, data, {200, 400, 504} if b"\0\0\0\x40\0\0\0\x40" in data else {400}
    )


def damaged_photo(site: Site, rng: random.Random) -> str:
    """Changed bytes, which may go unnoticed."""
    return _with_photo(site, rng, photos.damaged(rng), {200, 400, 504})


def _with_photo(site: Site, rng: random.Random, data: bytes, allowed: set[int]) -> str:
    """Sends a file in one of the places that take one."""
    field = rng.choice(("image", "pose", "source", "mask", "kps_image", "control_mask"))
    if rng.random() < 0.2:
        return judge(site.post(FACES, files={"image": data}), allowed)
    files = {"image": PORTRAIT, field: data}
    if field == "mask":
        files["source"] = PORTRAIT
    if rng.random() < 0.7:
        answer = site.post(EDITS, data=fields(rng), files=files)
    else:
        texts = {name: base64_text(each) for name, each in files.items()}
        answer = site.post(EDITS, json={"prompt": "a", "num_inference_steps": 4, **texts})
    try:
        called = judge(answer, allowed)
    except Violation as error:
        raise Violation(f"{field} of {len(data)} bytes, {data[:12]!r}: {error}") from error
    if answer.status_code == 400 and len(read_error(answer)["message"]) > 300:
        raise Violation(f"a long message: {answer.text[:500]}")
    return called


def broken_json(site: Site, rng: random.Random) -> str:
    """A body that is not an object in JSON."""
    whole = json.dumps({"prompt": "a", "image": base64_text(PORTRAIT)}).encode()
    contents = (
        whole[: rng.randint(0, len(whole) - 1)],
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[]",
        b"null",
        b'"\xff\xfe"',
        b'{"prompt": "\xff"}',
        b"{'prompt': 1}",
        b'{"seed": ' + b"9" * 100_000 + b"}",
        b"\0" * 1000,
    )
    path = rng.choice((EDITS, GENERATIONS, FACES, TXT2IMG))
    return judge(_post_json(site, path, rng.choice(contents)), {400})


def broken_form(site: Site, rng: random.Random) -> str:
    """A form without its end, of too many parts, or whose parts make no sense."""
    head = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n'
    kind, content = rng.choice(
        (
            ("multipart/form-data", head + b"--x--\r\n"),
            ("multipart/form-data; boundary=", head),
            ("multipart/form-data; boundary=y", head + b"--x--\r\n"),
            ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\na\r\n--x--\r\n"),
            ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: " + b"a" * 9000),
            ("multipart/form-data; boundary=x", head * 200 + b"--x--\r\n"),
            ("multipart/form-data; boundary=x", rng.randbytes(2000)),
            (
                "multipart/form-data; boundary=x",
                head.replace(b"\r\n\r\na", b"\r\n\r\n" + b"a" * 300_000),
            ),
            ("multipart/form-data; boundary=" + "x" * 3000, head),
            ("application/x-www-form-urlencoded", b"&".join([b"a=b"] * 1000)),
            ("application/x-www-form-urlencoded", b"%ff=%ff&%00=%00"),
            ("application/x-www-form-urlencoded", rng.randbytes(2000)),
        )
    )
    headers = site.bearer(1) | {"Content-Type": kind}
    answer = site.http.post(rng.choice((EDITS, FACES)), content=content, headers=headers)
    return judge(answer, {400})


def other_kind(site: Site, rng: random.Random) -> str:
    """A body of a kind that is not taken."""
    kind = rng.choice(("image/png", "text/plain", "", "application/xml", "multipart/mixed"))
    headers = site.bearer(1) | ({"Content-Type": kind} if kind else {})
    return judge(site.http.post(EDITS, content=PORTRAIT, headers=headers), {415})


def too_large(site: Site, rng: random.Random) -> str:
    """A body of more bytes than are taken, announced or in chunks."""

    def chunks() -> Iterator[bytes]:
        for _ in range(LIMITS.body_bytes // 2**16 + 2):
            yield bytes(2**16)

    content: bytes | Iterator[bytes] = chunks()
    if rng.random() < 0.5:
        content = bytes(LIMITS.body_bytes + 1)
    headers = site.bearer(1) | {"Content-Type": "application/json"}
    try:
        return judge(site.http.post(EDITS, content=content, headers=headers), {413})
    except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
        # The service closes the connection, and the answer is lost if more was under way.
        return "closed"


def stranger(site: Site, rng: random.Random) -> str:
    """Without a token, or with a wrong one."""
    header = rng.choice(HEADERS).replace("TOKEN", site.token(1))
    method, path = rng.choice(PATHS)
    options: dict[str, Any] = {}
    if method == "POST":
        options = {"data": fields(rng), "files": {"image": PORTRAIT}}
    headers = {"Authorization": header} if header else {}
    answer = site.http.request(method, path, headers=headers, **options)
    if "www-authenticate" not in answer.headers:
        raise Violation("401 without WWW-Authenticate")
    return judge(answer, {401})


def lost(site: Site, rng: random.Random) -> str:
    """Paths and methods that there are not."""
    method, path = rng.choice(NOWHERE)
    answer = site.http.request(method, path, headers=site.bearer(1))
    return judge(answer, {307, 404, 405} if path.endswith("/") else {404, 405})


def _post_json(site: Site, path: str, content: bytes) -> httpx.Response:
    headers = site.bearer(1) | {"Content-Type": "application/json"}
    return site.http.post(path, content=content, headers=headers)


KINDS: tuple[Callable[[Site, random.Random], str], ...] = (
    wrong_field,
    wrong_value,
    exclusive_fields,
    bad_photo,
    bomb,
    damaged_photo,
    broken_json,
    broken_form,
    other_kind,
    too_large,
    stranger,
    lost,
)
