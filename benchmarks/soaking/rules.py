"""The rules that answers obey: documented statuses, errors in OpenAI's shape, intact images."""

import base64
import io
import json
import threading
from typing import Any

import httpx
import numpy as np
from PIL import Image

# Refusals that any request may meet when the service is full.
FULL = {429, 503}
# Characters of an error's message: it quotes the start of a value, not the value.
LONGEST = 1500
# The most that a pixel of the same seed may differ between batches of different sizes.
ROUNDING = 2


class Violation(Exception):
    """An answer that the rules do not allow."""


def judge(answer: httpx.Response, allowed: set[int], param: str | None = None) -> str:
    """Names an answer for the table.

    Args:
      allowed: its statuses, in addition to `FULL`.
      param: the field that an answer of 400 must name; None allows any.
    Raises:
      Violation: for an answer that is not allowed.
    """
    status = answer.status_code
    if status not in allowed | FULL:
        raise Violation(f"status {status}, expected {sorted(allowed)}: {answer.text[:300]}")
    if status >= 400:
        error = read_error(answer)
        if status in FULL and "retry-after" not in answer.headers:
            raise Violation(f"status {status} without Retry-After: {answer.text[:300]}")
        if status == 400 and param is not None and error["param"] != param:
            raise Violation(f"400 names {error['param']}, expected {param}: {error['message']}")
        if status in FULL and error["code"]:
            return f"{status} {error['code']}"
    return str(status)


def read_error(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer's body.

    Raises:
      Violation: if it has another shape, or says too much.
    """
    try:
        error = answer.json()["error"]
        message, _ = error["message"], (error["type"], error["param"], error["code"])
    except (ValueError, KeyError, TypeError) as raised:
        raise Violation(
            f"status {answer.status_code} without an error in the body: {answer.text[:300]}"
        ) from raised
    if not message or len(message) > LONGEST:
        raise Violation(f"an error of {len(message)} characters: {message[:300]}")
    return error


def read_image(text: str, side: int, kind: str = "PNG") -> np.ndarray:
    """The pixels of an image in base64, [H, W, 3] uint8.

    Raises:
      Violation: if it is damaged, of another format or of another size.
    """
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
        pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise Violation(f"an image is damaged: {error}") from error
    if image.format != kind or pixels.shape != (side, side, 3):
        raise Violation(f"an image is {image.format} {pixels.shape}, expected {kind} of {side}")
    if np.ptp(pixels) < 10:
        raise Violation("an image shows nothing")
    return pixels


def read_images(answer: httpx.Response, count: int, side: int, kind: str = "PNG") -> Any:
    """The images of a complete answer of OpenAI's API, each [H, W, 3] uint8.

    Raises:
      Violation: if one is missing or damaged, or the facts do not fit.
    """
    body = answer.json()
    data = body["data"]
    if len(data) != count or body["instantid"]["seeds"] != [each["seed"] for each in data]:
        raise Violation(f"{len(data)} images of seeds {body['instantid']['seeds']}: not {count}")
    return [read_image(each["b64_json"], side, kind) for each in data]


def read_events(lines: Any) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream, by name.

    Raises:
      Violation: if one is not complete.
    """
    events, name = [], ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            try:
                events.append((name, json.loads(line.removeprefix("data: "))))
            except ValueError as error:
                raise Violation(f"an event {name} is not complete") from error
    return events


class References:
    """The first image of each request, with which later ones are compared."""

    def __init__(self) -> None:
        self._images: dict[Any, np.ndarray] = {}
        self._lock = threading.Lock()

    def compare(self, key: Any, pixels: np.ndarray) -> None:
        """Compares an image with the first of the same request.

        Raises:
          Violation: if they differ by more than rounding.
        """
        with self._lock:
            first = self._images.setdefault(key, pixels)
        difference = int(np.abs(first.astype(int) - pixels.astype(int)).max())
        if difference > ROUNDING:
            raise Violation(f"the same request {key} differs by {difference} of 255")
