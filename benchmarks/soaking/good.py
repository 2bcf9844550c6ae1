"""Clients whose requests are in order: they get their images, or a refusal for lack of room."""

import random
import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from benchmarks.soaking import photos
from benchmarks.soaking.rules import (
    Violation,
    judge,
    read_error,
    read_events,
    read_image,
    read_images,
)
from benchmarks.soaking.server import SIDE
from benchmarks.soaking.site import EDITS, FACES, GENERATIONS, Site, base64_text, fields

TXT2IMG = "/sdapi/v1/txt2img"
PORTRAIT = photos.save(photos.PORTRAITS[0])
# Too late, because the machine was busy.
MADE = {200, 504}


def edit(site: Site, rng: random.Random, token: int = 1) -> str:
    """A photo of a fixed size: the same request always has the same image."""
    data = fields(rng)
    answer = site.post(EDITS, token, data=data, files={"image": PORTRAIT})
    called = judge(answer, MADE)
    if answer.status_code == 200:
        (pixels,) = read_images(answer, 1, SIDE)
        site.references.compare(tuple(data.values()), pixels)
    return called


def edit_of_json(site: Site, rng: random.Random) -> str:
    """The same requests, with the photo in base64."""
    data = fields(rng)
    numbers = {name: int(text) for name, text in data.items() if name != "prompt"}
    image = f"data:image/png;base64,{base64_text(PORTRAIT)}"
    answer = site.post(EDITS, json={"prompt": data["prompt"], "image": image, **numbers})
    called = judge(answer, MADE)
    if answer.status_code == 200:
        (pixels,) = read_images(answer, 1, SIDE)
        site.references.compare(tuple(data.values()), pixels)
    return called


def generation(site: Site, rng: random.Random) -> str:
    """The person of the server, who is in the same photo."""
    data = fields(rng)
    answer = site.post(GENERATIONS, data=data)
    called = judge(answer, MADE)
    if answer.status_code == 200:
        (pixels,) = read_images(answer, 1, SIDE)
        site.references.compare(tuple(data.values()), pixels)
    return called


def photos_of_all_sizes(site: Site, rng: random.Random) -> str:
    """Several photos in any format, and several images in any format."""
    kind, count = rng.choice(("png", "jpeg", "webp")), rng.randint(1, 3)
    files = [
        ("image[]", photos.portrait(rng, rng.choice(photos.FORMATS)))
        for _ in range(rng.randint(1, 3))
    ]
    data = fields(rng, n=count, output_format=kind)
    answer = site.post(EDITS, data=data, files=files)
    called = judge(answer, MADE)
    if answer.status_code == 200:
        read_images(answer, count, SIDE, kind.upper())
    return called


def largest_photo(site: Site, rng: random.Random) -> str:
    """As many pixels as are allowed, which take megabytes until it is answered."""
    files = {"image": PORTRAIT, "source": photos.largest(rng)}
    answer = site.post(EDITS, data=fields(rng, strength=0.7, num_inference_steps=4), files=files)
    called = judge(answer, MADE)
    if answer.status_code == 200:
        read_images(answer, 1, SIDE)
    return called


def repaint(site: Site, rng: random.Random) -> str:
    """An image to begin with, and a mask, with which the result has the image's size."""
    side = rng.randint(photos.SMALLEST, photos.LARGEST)
    mask = np.zeros((side, side), np.uint8)
    mask[rng.randint(0, 40) :, : rng.randint(40, 96)] = 255
    files = {
        "image": PORTRAIT,
        "source": photos.portrait(rng, rng.choice(photos.FORMATS), side),
        "mask": photos.save(photos.Image.fromarray(mask)),
    }
    if rng.random() < 0.3:
        del files["mask"]
    data = fields(rng, strength=round(rng.uniform(0.3, 1), 2), num_inference_steps=8)
    answer = site.post(EDITS, data=data, files=files)
    called = judge(answer, MADE)
    if answer.status_code == 200:
        read_images(answer, 1, side if "mask" in files else SIDE)
    return called


def stream(site: Site, rng: random.Random, token: int = 1, **others: object) -> str:
    """Previews and images as events."""
    data = fields(rng, stream="true", partial_images=rng.randint(0, 3), **others)
    with site.http.stream(
        "POST", EDITS, headers=site.bearer(token), data=data, files={"image": PORTRAIT}
    ) as answer:
        if answer.status_code != 200:
            answer.read()
            return judge(answer, MADE)
        events = read_events(answer.iter_lines())
    return check_events(events, int(data["partial_images"]))


def check_events(events: list[tuple[str, dict[str, Any]]], previews: int) -> str:
    """Names the events of one image for the table.

    Raises:
      Violation: if its image is missing, or others are wrong.
    """
    partial = [event for name, event in events if name == "image_edit.partial_image"]
    completed = [event for name, event in events if name == "image_edit.completed"]
    errors = [event["error"] for name, event in events if name == "error"]
    if len(partial) + len(completed) + len(errors) != len(events) or len(partial) > previews:
        raise Violation(f"a stream has the events {[name for name, _ in events]}")
    if [event["partial_image_index"] for event in partial] != [*range(len(partial))]:
        raise Violation("the previews of a stream are not in order")
    for event in (*partial, *completed):
        read_image(event["b64_json"], SIDE)
    if [error["code"] for error in errors] == ["timeout"] and not completed:
        return "200 timeout"
    if errors or len(completed) != 1:
        raise Violation(f"a stream ends with {errors or [name for name, _ in events]}")
    return "200"


def face(site: Site, rng: random.Random) -> str:
    """Keeps a face, uses it, and has it forgotten."""
    answer = site.post(FACES, files={"image": photos.portrait(rng)}, data={"embedding": "true"})
    called = judge(answer, {200})
    if answer.status_code != 200:
        return called
    name = answer.json()["id"]
    used = site.post(EDITS, data=fields(rng, face_id=name))
    called = judge(used, MADE)
    if used.status_code == 200:
        read_images(used, 1, SIDE)
    stranger = site.post(EDITS, 2, data=fields(rng, face_id=name))
    _check_unknown_face(stranger)
    where = f"{FACES}/{name}"
    for status in (204, 404):
        removed = site.http.delete(where, headers=site.bearer(1))
        if removed.status_code != status:
            raise Violation(f"DELETE has status {removed.status_code}, expected {status}")
    _check_unknown_face(site.post(EDITS, data=fields(rng, face_id=name)))
    return called


def _check_unknown_face(answer: httpx.Response) -> None:
    judge(answer, {400}, param="face_id")
    if answer.status_code == 400 and read_error(answer)["code"] != "face_not_found":
        raise Violation(f"a face that is not there: {answer.text[:300]}")


def face_that_stays(site: Site, rng: random.Random) -> str:
    """Keeps a face that nobody asks for again."""
    return judge(site.post(FACES, 3, files={"image": photos.portrait(rng)}), {200})


def webui(site: Site, rng: random.Random) -> str:
    """The requests of a client of AUTOMATIC1111's API, whose token is a password."""
    password = httpx.BasicAuth("me", site.token(1))
    for path in ("options", "samplers", "sd-models", "progress"):
        answer = site.http.get(f"/sdapi/v1/{path}", auth=password)
        if answer.status_code != 200:
            raise Violation(f"{path} has status {answer.status_code}")
    count = rng.randint(1, 2)
    body = {
        "prompt": "a cartoon of a person",
        "steps": rng.randint(1, 8),
        "batch_size": count,
        "seed": -1,
        "sampler_name": rng.choice(("Euler a", "DPM++ 2M", "UniPC", "LCM", "no such sampler")),
        "width": SIDE,
        "height": SIDE,
        "alwayson_scripts": {"instantid": {"args": [{"image": base64_text(PORTRAIT)}]}},
    }
    if rng.random() < 0.5:
        del body["alwayson_scripts"]
    answer = site.http.post(TXT2IMG, json=body, auth=password)
    called = judge(answer, MADE)
    if answer.status_code == 200:
        images = [read_image(text, SIDE) for text in answer.json()["images"]]
        if len(images) != count:
            raise Violation(f"{len(images)} images, expected {count}")
    return called


def interrupted(site: Site, rng: random.Random) -> str:
    """A client of the same API that changes its mind; its token is its own."""
    after = threading.Timer(
        rng.uniform(0, 2),
        lambda: site.post("/sdapi/v1/interrupt", token=len(site.server.tokens) - 1),
    )
    after.start()
    body = {"prompt": "a person", "steps": 40, "width": SIDE, "height": SIDE}
    answer = site.post(TXT2IMG, token=len(site.server.tokens) - 1, json=body)
    after.join()
    return judge(answer, MADE | {409})


def keep_alive(site: Site, rng: random.Random) -> str:
    """Several requests on one connection, errors among them."""
    with httpx.Client(
        base_url=site.server.url, headers=site.bearer(1), timeout=site.http.timeout, trust_env=False
    ) as client:
        for path in ("/v1/models", "/readyz", "/v1/models/instantid", "/healthz", "/openapi.json"):
            if client.get(path).status_code != 200:
                raise Violation(f"{path} was not answered")
        judge(client.post(EDITS, json={"prompt": "a", "seed": "many"}), {400}, param="seed")
        answer = client.post(EDITS, data=fields(rng), files={"image": PORTRAIT})
        return judge(answer, MADE)


KINDS: tuple[Callable[[Site, random.Random], str], ...] = (
    edit,
    edit_of_json,
    generation,
    photos_of_all_sizes,
    largest_photo,
    repaint,
    stream,
    face,
    face_that_stays,
    webui,
    interrupted,
    keep_alive,
)
