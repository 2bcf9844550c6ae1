"""`/v1/faces`: faces that are kept for a while."""

import asyncio
import time

import numpy as np
import pytest

from instantid_jax.serving.http.kept import FaceStore
from tests.pipeline import small_model
from tests.serving.http.conftest import png, text64

FACES, EDITS = "/v1/faces", "/v1/images/edits"
TOKENS = ("a-token-of-16-ch", "another-long-one")


def test_a_kept_face_is_who_is_shown(make, engine):
    async def call():
        async with make() as client:
            files = [("image[]", ("a.png", png("red"))), ("image[]", ("b.png", png("blue")))]
            kept = await client.post(FACES, files=files)
            data = {"prompt": "a", "face_id": kept.json()["id"]}
            made = await client.post(EDITS, data=data)
            removed = await client.delete(f"{FACES}/{kept.json()['id']}")
            again = await client.delete(f"{FACES}/{kept.json()['id']}")
            return kept.json(), made, removed, again, await client.post(EDITS, data=data)

    kept, made, removed, again, gone = asyncio.run(call())
    assert made.status_code == 200, made.text
    np.testing.assert_allclose(engine.requests[0].face.embedding[:3], [127.5, 0, 127.5])
    assert kept["count"] == 2 and len(kept["faces"]) == 2 and "embedding" not in kept
    assert kept["faces"][0]["bbox"] == [5, 5, 25, 25] and len(kept["faces"][0]["kps"]) == 5
    assert np.diag(kept["cosine"]).tolist() == [1, 1] and kept["cosine"][0][1] < 0.8
    assert (removed.status_code, again.status_code) == (204, 404)
    assert (gone.status_code, gone.json()["error"]["code"]) == (400, "face_not_found")


def test_embeddings_are_given_to_those_who_ask(make):
    async def call():
        async with make() as client:
            body = {"image": text64(png("red")), "embedding": True}
            files = {"image": ("a.png", png("red"))}
            form = await client.post(FACES, data={"embedding": "true"}, files=files)
            return await client.post(FACES, json=body), form

    for answer in asyncio.run(call()):
        assert answer.json()["embedding"][:3] == [255, 0, 0]


def test_faces_of_others_are_not_served(make):
    async def call():
        async with make(tokens=TOKENS) as client:
            mine, theirs = ({"Authorization": f"Bearer {token}"} for token in TOKENS)
            files = {"image": ("a.png", png("red"))}
            kept = (await client.post(FACES, files=files, headers=mine)).json()["id"]
            data = {"prompt": "a", "face_id": kept}
            return [
                await client.post(EDITS, data=data, headers=theirs),
                await client.delete(f"{FACES}/{kept}", headers=theirs),
                await client.post(EDITS, data=data, headers=mine),
            ]

    assert [each.status_code for each in asyncio.run(call())] == [400, 404, 200]


@pytest.mark.parametrize(
    ("data", "files", "code"),
    [
        ({}, [("image", ("a.png", png("black")))], "no_face"),
        ({}, [("image", ("a.png", b"GIF89a"))], "invalid_image"),
        ({}, [("image", ("a.png", png()))] * 9, None),
        ({"prompt": "a"}, [("image", ("a.png", png()))], None),
        ({"embedding": "perhaps"}, [("image", ("a.png", png()))], None),
        ({"embedding": "true"}, [], "missing_required_parameter"),
    ],
)
def test_what_cannot_be_measured_is_refused(make, data, files, code):
    async def call():
        async with make() as client:
            return await client.post(FACES, data=data, files=files), len(client.service.faces)

    answer, kept = asyncio.run(call())
    assert (answer.status_code, answer.json()["error"]["code"], kept) == (400, code, 0)


def test_photographs_are_refused_by_the_embedded_model(make):
    async def call():
        async with make(drawn_only=True) as client:
            return await client.post(FACES, files={"image": ("a.png", png())})

    error = asyncio.run(call()).json()["error"]
    assert error["code"] == "not_drawn" and "/" not in error["message"]


def test_faces_expire_and_make_room(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    store = FaceStore(2, 60)
    names = [store.add(small_model.person(i), "")[0] for i in range(3)]
    assert len(store) == 2 and len({*names}) == 3
    assert store.find(names[0], "") is None and not store.remove(names[0], "")
    assert store.find(names[2], "") is not None
    now += 61
    assert store.find(names[2], "") is None
    assert len(store) == 0
