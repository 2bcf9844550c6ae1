"""Forms: files stay in memory, and texts are never paths."""

import asyncio
import tempfile

import numpy as np
import pytest

from instantid_jax.serving.http.errors import FieldError
from instantid_jax.serving.http.forms import from_json, read_json
from tests.serving.http.conftest import analyze, png, text64

FILES = frozenset(("image", "control_images"))


def test_files_in_base64():
    data = png()
    form = read_json(
        b'{"image": "data:image/png;base64,%s", "seed": 3, "pose": null}' % text64(data).encode(),
        FILES,
    )
    assert form.files == {"image": [data]} and form.values == {"seed": 3} and not form.encoded
    form = from_json({"control_images[]": ["none", text64(data), None]}, FILES)
    assert form.files == {"control_images": [None, data, None]}


@pytest.mark.parametrize(
    "value",
    [
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "/etc/passwd",
        "data:image/png,abc",
        "http://a;base64,QUJD",
        "QUJ",
        7,
        {"url": "http://a"},
    ],
)
def test_addresses_and_paths_are_refused(value):
    with pytest.raises(FieldError, match="expected a file in base64"):
        from_json({"image": value}, FILES)


@pytest.mark.parametrize("field", ["image", "source"])
def test_empty_files_do_not_pass_for_none(make, engine, field):
    """The image would be of the server's person, or begin with noise."""

    async def call(**options):
        async with make(default=analyze(np.ones((9, 9, 3)))) as client:
            return await client.post("/v1/images/edits", **options)

    named = {"data": {"prompt": "a"}, "files": {field: ("me.png", b"")}}
    bodies = [{"json": {"prompt": "a", field: text}} for text in ("", "data:image/png;base64,")]
    for options in (named, *bodies):
        answer = asyncio.run(call(**options))
        assert answer.status_code == 400 and answer.json()["error"]["param"] == field
    assert not engine.requests
    # A browser's form in which no file was chosen.
    part = f'Content-Disposition: form-data; name="{field}"; filename=""'
    prompt = 'Content-Disposition: form-data; name="prompt"'
    content = f"--x\r\n{prompt}\r\n\r\na\r\n--x\r\n{part}\r\n\r\n\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert asyncio.run(call(content=content, headers=kind)).status_code == 200


def test_texts_instead_of_files_are_refused(make):
    async def call():
        async with make() as client:
            data = {"prompt": "a", "image": "/etc/passwd"}
            files = {"pose": ("p.png", png())}
            text = await client.post("/v1/images/edits", data=data, files=files)
            files = {"prompt": ("p.png", png())}
            file = await client.post("/v1/images/edits", files=files)
            plain = await client.post("/v1/images/edits", data=data)
            return text, file, plain

    for answer, param in zip(asyncio.run(call()), ("image", "prompt", "image"), strict=True):
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_large_files_are_not_written_to_disk(make, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a file on disk")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)

    async def call():
        async with make() as client:
            # Valid images, of more bytes than forms are usually kept in memory for.
            files = {"image": ("a.png", png("red", (1200, 1000), compress_level=0))}
            assert len(files["image"][1]) > 3 * 2**20
            return await client.post("/v1/images/edits", data={"prompt": "a"}, files=files)

    assert asyncio.run(call()).status_code == 200
