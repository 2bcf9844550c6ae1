"""A model behind HTTP: a client of the service's `POST /v1/images/edits`."""

import asyncio
import base64
import concurrent.futures
import contextvars
import dataclasses
import json
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import comfy.model_management
import comfy.utils
import httpx
import numpy as np
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face

from .form import File, form_of
from .generation import Generated, Generation
from .images import decode_png

ROUTE = "/v1/images/edits"
# The address that nodes without one take, and the token for it. A token is not an input: ComfyUI
# writes inputs into every image. A workflow that names another server does not get it.
SERVER, TOKEN = "INSTANTID_SERVER", "INSTANTID_TOKEN"
# Images may wait in a queue for long; the Cancel button ends that.
TIMEOUT = httpx.Timeout(None, connect=10, write=120)
# Seconds between two looks at the Cancel button.
POLL = 0.2
# Comments in the stream of events.
STEP = re.compile(r"step (\d+)/(\d+)")
LONGEST_REASON = 300


@dataclasses.dataclass(frozen=True)
class Service:
    """Implements `generation.Model` with a service.

    Attributes:
      server: its address, such as http://127.0.0.1:8000; empty takes the environment's.
    """

    server: str

    def __post_init__(self):
        address = _normalized(self.server) or _normalized(os.environ.get(SERVER, ""))
        if not address.startswith(("http://", "https://")):
            raise InputError(
                f"server={address!r}: expected an address such as http://127.0.0.1:8000, here or "
                f"in the environment variable {SERVER}"
            )
        object.__setattr__(self, "server", address)

    def analyze(self, photos: tuple[np.ndarray, ...], combine_embeds: str) -> Face:
        raise InputError(
            "a service measures faces itself: connect the photos to image of the Generate node"
        )

    def generate(self, generation: Generation) -> Generated:
        """Asks the service for the images.

        Raises:
          InputError: if it cannot be reached, refuses, or is another kind of service.
        """
        asking = self._ask(*form_of(generation))
        # In a thread, because ComfyUI runs nodes inside of an event loop; in this one's context,
        # by which ComfyUI knows whose progress it is.
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            context = contextvars.copy_context()
            entries = executor.submit(context.run, asyncio.run, asking).result()
        try:
            return _read(entries)
        except (KeyError, OSError, TypeError, ValueError, Image.DecompressionBombError) as error:
            raise self._not_ours(error) from error

    async def _ask(self, fields: dict[str, str], files: list[File]) -> list[dict[str, Any]]:
        """The service's finished images; hangs up if the user cancels, which ends them there."""
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT) as client:
                following = asyncio.ensure_future(self._follow(client, fields, files))
                try:
                    while not following.done():
                        comfy.model_management.throw_exception_if_processing_interrupted()
                        await asyncio.wait([following], timeout=POLL)
                finally:
                    following.cancel()
                    await asyncio.wait([following])
                return following.result()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise InputError(
                f"{self.server} cannot be reached ({reason}): start `instantid serve` there, or "
                "correct the address"
            ) from error

    async def _follow(
        self, client: httpx.AsyncClient, fields: dict[str, str], files: list[File]
    ) -> list[dict[str, Any]]:
        """Posts the form and reads the events, which move the progress bar."""
        own = self.server == _normalized(os.environ.get(SERVER, ""))
        token = os.environ.get(TOKEN) if own else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        bar = comfy.utils.ProgressBar(1)
        finished = []
        async with client.stream(
            "POST", self.server + ROUTE, data=fields, files=files, headers=headers
        ) as response:
            if not response.is_success:
                await response.aread()
                reason = _reason(response.text) or response.reason_phrase
                raise InputError(f"{self.server} answered {response.status_code}: {reason}")
            async for name, data in _events(response.aiter_lines()):
                if step := STEP.fullmatch(data) if name == "" else None:
                    bar.update_absolute(int(step[1]), int(step[2]))
                elif name == "error":
                    raise InputError(f"{self.server}: {_reason(data)}")
                elif name.endswith(".completed"):
                    finished.append(data)
        try:
            return [json.loads(data) for data in finished]
        except ValueError as error:
            raise self._not_ours(error) from error

    def _not_ours(self, error: Exception | str) -> InputError:
        return InputError(
            f"{self.server} did not answer with images ({error}): expected the address of "
            "`instantid serve`"
        )


def _normalized(address: str) -> str:
    return address.strip().rstrip("/").removesuffix("/v1")


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, str]]:
    """Server-sent events as (name, data); comments have no name.

    Source: WHATWG HTML, 9.2.6.
    """
    name, data = "message", ""
    async for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield name, data
            name, data = "message", ""
        elif field == "":
            yield "", value
        elif field == "event":
            name = value
        elif field == "data":
            data = f"{data}\n{value}" if data else value


def _read(entries: list[dict[str, Any]]) -> Generated:
    """Images from the data of their events."""
    if not entries:
        raise ValueError("no image came")
    images, provenance = [], []
    for entry in entries:
        pixels, texts = decode_png(base64.b64decode(entry["b64_json"], validate=True))
        images.append(pixels)
        provenance.append({"seed": entry.get("seed"), **texts})
    return Generated(images, provenance)


def _reason(text: str) -> str:
    """The message of an error in OpenAI's form, or how another text begins."""
    try:
        message = json.loads(text)["error"]["message"]
    except (KeyError, TypeError, ValueError):
        message = text
    return str(message)[:LONGEST_REASON]
