"""OpenAI's images API: edits, generations and models."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from instantid_jax.pipeline.result import Result
from instantid_jax.serving.http.answers import count, encode, encode_preview, facts_of
from instantid_jax.serving.http.errors import service_error
from instantid_jax.serving.http.fields import FILES, MODEL, Fields
from instantid_jax.serving.http.forms import read_form
from instantid_jax.serving.http.generation import (
    Submitted,
    check_ready,
    finish,
    following,
    notify,
    result_of,
    submit,
)
from instantid_jax.serving.http.service import Service
from instantid_jax.serving.job import Job, Listener

EDITS, GENERATIONS, MODELS = "/v1/images/edits", "/v1/images/generations", "/v1/models"
# The beginnings of OpenAI's names of events.
EVENTS = {EDITS: "image_edit", GENERATIONS: "image_generation"}
# Seconds between comments that keep proxies from closing a stream.
PING = 10
# Nothing is paid by the token; clients read the numbers.
USAGE: dict[str, Any] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    async def images(http: HttpRequest) -> Response:
        """Makes images of a person; edits and generations differ in the names of their events."""
        check_ready(service)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(service.admission.enter(http.state.owner))
            form = await read_form(http, FILES)
            relay = _Relay()
            async with following(http) as client:
                submitted = await submit(service, http, client, form, listener=relay)
                stack.callback(submitted.job.cancel)
                if not submitted.fields.stream:
                    result = await finish(client, submitted.job)
                    answer = service.workers.submit(_answer, submitted, result)
                    body = await client.unless_left(asyncio.wrap_future(answer))
                    count(service, submitted, len(result.seeds))
                    return Response(body, media_type="application/json")
            relay.follow(submitted.job)
            events = _events(service, EVENTS[http.url.path], submitted, relay)
            return _Stream(events, stack.pop_all())

    for path in (EDITS, GENERATIONS):
        routes.add_api_route(path, images, methods=["POST"], name=EVENTS[path])

    @routes.get(MODELS)
    async def models() -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [_model()]}

    @routes.get(f"{MODELS}/{MODEL}")
    async def model() -> dict[str, Any]:
        """It."""
        return _model()

    return routes


def _model() -> dict[str, Any]:
    return {"id": MODEL, "object": "model", "created": 0, "owned_by": "instantid_jax"}


def _size(result: Result) -> str:
    """That of the images, which with a mask is the source's."""
    width, height = result.pil_images[0].size
    return f"{width}x{height}"


def _base64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def _answer(submitted: Submitted, result: Result) -> bytes:
    """The body of an answer that is not streamed."""
    files = encode(result, submitted.fields)
    data = [
        {"b64_json": _base64(file), "seed": int(seed)}
        for file, seed in zip(files, result.seeds, strict=True)
    ]
    answer = {
        "created": int(time.time()),
        "background": "opaque",
        "output_format": submitted.fields.output_format,
        "size": _size(result),
        "data": data,
        "usage": USAGE,
        "instantid": facts_of(submitted, result),
    }
    return json.dumps(answer).encode()


class _Relay(Listener):
    """Passes what happens to a job on to the event loop; made in the loop."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def follow(self, job: Job) -> None:
        """Passes the end on too."""
        job.add_done_callback(lambda _: self._put("done", None))

    def on_progress(self, done: int, total: int) -> None:
        self._put("step", (done, total))

    def on_preview(self, image: int, pixels: np.ndarray) -> None:
        self._put("preview", pixels)

    def _put(self, kind: str, value: Any) -> None:
        notify(self._loop, self.queue.put_nowait, (kind, value))


async def _events(
    service: Service, prefix: str, submitted: Submitted, relay: _Relay
) -> AsyncIterator[ServerSentEvent]:
    """The events of a stream: steps as comments, previews, and the images or an error."""
    request = submitted.job.request
    assert request.height is not None and request.width is not None
    shared = {
        "size": f"{request.width}x{request.height}",
        "quality": "auto",
        "background": "opaque",
        "output_format": submitted.fields.output_format,
    }
    previews = 0
    loop = asyncio.get_running_loop()
    while True:
        kind, value = await relay.queue.get()
        if kind == "done":
            break
        if kind == "step":
            yield ServerSentEvent(comment=f"step {value[0]}/{value[1]}")
            continue
        size = request.height, request.width
        preview = await loop.run_in_executor(
            service.workers, _preview, value, size, submitted.fields
        )
        name = f"{prefix}.partial_image"
        event = {"type": name, "b64_json": preview, "partial_image_index": previews}
        yield _event(name, {**event, "created_at": int(time.time()), **shared})
        previews += 1
    try:
        result = result_of(submitted.job)
        files = await loop.run_in_executor(service.workers, encode, result, submitted.fields)
    except Exception as error:
        yield _event("error", {"type": "error", **service_error(error).to_json()})
        return
    count(service, submitted, len(files))
    shared["size"] = _size(result)
    name = f"{prefix}.completed"
    facts = facts_of(submitted, result)
    for file, seed in zip(files, result.seeds, strict=True):
        event = {"type": name, "b64_json": _base64(file), "created_at": int(time.time()), **shared}
        yield _event(name, {**event, "usage": USAGE, "seed": int(seed), "instantid": facts})


def _preview(pixels: np.ndarray, size: tuple[int, int], fields: Fields) -> str:
    return _base64(encode_preview(pixels, size, fields))


def _event(name: str, data: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data), event=name)


class _Stream(EventSourceResponse):
    """Events, after which something is closed, whether or not the client stayed."""

    def __init__(self, events: AsyncIterator[ServerSentEvent], stack: contextlib.AsyncExitStack):
        super().__init__(events, ping=PING)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)
