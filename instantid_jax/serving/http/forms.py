"""Reading bodies: multipart forms and JSON, in memory alone."""

import asyncio
import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import Request

from instantid_jax.serving.http.errors import FieldError, ServiceError

MULTIPART = "multipart/form-data"
FORMS = (MULTIPART, "application/x-www-form-urlencoded")
# Parts of a form.
MOST_FIELDS = 128
MOST_FILES = 64
# Bytes of a part that is not a file.
LONGEST_TEXT = 2**18
# Stands for no image in lists of images.
NONE = "none"


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """The contents of a body, by the names of its fields.

    Attributes:
      values: texts of a form as lists, or values of JSON.
      files: the bytes of files; None stands for no image.
      encoded: whether values are texts that stand for other types, as in forms.
    """

    values: dict[str, Any]
    files: dict[str, list[bytes | None]]
    encoded: bool


class _InMemory(MultiPartParser):
    """Keeps files in memory, which the limits of bodies bound, instead of on disk."""

    spool_max_size = 2**62


async def read_form(request: Request, files: frozenset[str]) -> Form:
    """Reads a body.

    Args:
      files: names of the fields that are files; in JSON they are texts in base64.
    Raises:
      FieldError: for a body that is damaged, or a text where a file is expected.
      ServiceError: for another kind of body.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in FORMS:
        return await _form(request, files)
    if kind == "application/json":
        body = await request.body()
        return await asyncio.to_thread(read_json, body, files)
    raise ServiceError(415, f"expected {' or '.join(FORMS)}, or application/json")


async def _form(request: Request, files: frozenset[str]) -> Form:
    limits = {"max_fields": MOST_FIELDS, "max_part_size": LONGEST_TEXT}
    headers, stream = request.headers, request.stream()
    try:
        if headers["content-type"].lower().startswith(MULTIPART):
            parsed = await _InMemory(headers, stream, max_files=MOST_FILES, **limits).parse()
        else:
            parsed = await FormParser(headers, stream, **limits).parse()
    except MultiPartException as error:
        raise FieldError(f"the form is damaged: {error.message}") from error
    form = Form({}, {}, encoded=True)
    try:
        for key, value in parsed.multi_items():
            # Clients add brackets to the names of lists.
            name = key.removesuffix("[]")
            if name in files:
                form.files.setdefault(name, []).append(await _file(name, value))
            elif isinstance(value, UploadFile):
                raise FieldError(f"{name} is a file: expected text", name)
            else:
                form.values.setdefault(name, []).append(value)
    finally:
        await parsed.close()
    return form


async def _file(name: str, value: UploadFile | str) -> bytes | None:
    if isinstance(value, UploadFile):
        data = await value.read()
        # Browsers send a file without a name if none was chosen.
        return _filled(name, data) if data or value.filename else None
    if value.strip().lower() in ("", NONE):
        return None
    raise FieldError(f"{name} is text: upload a file", name)


def read_json(body: bytes, files: frozenset[str]) -> Form:
    """A form out of an object in JSON.

    Raises:
      FieldError: if it is not one.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FieldError(f"the body is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise FieldError("the body is not an object in JSON")
    return from_json(values, files)


def from_json(values: Mapping[str, Any], files: frozenset[str]) -> Form:
    """A form out of the fields of an object.

    Raises:
      FieldError: for a file that is not in base64, or empty.
    """
    form = Form({}, {}, encoded=False)
    for key, value in values.items():
        name = key.removesuffix("[]")
        if value is None:
            continue
        if name not in files:
            form.values[name] = value
            continue
        each = value if isinstance(value, list) else [value]
        form.files[name] = [_decoded(name, one) for one in each]
    return form


def _decoded(name: str, value: Any) -> bytes | None:
    """The bytes of a file in base64, alone or in an address `data:image/png;base64,...`."""
    if value is None or value == NONE:
        return None
    expected = f"{name}: expected a file in base64, or data:image/png;base64,...; addresses of "
    expected += "other kinds are not fetched"
    if not isinstance(value, str):
        raise FieldError(expected, name)
    head, _, data = value.rpartition(",")
    if head and not (head.startswith("data:") and head.endswith(";base64")):
        raise FieldError(expected, name)
    try:
        decoded = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FieldError(expected, name) from error
    return _filled(name, decoded)


def _filled(name: str, data: bytes) -> bytes:
    """A file that has something in it, or else the request would pass for one without it."""
    if not data:
        raise FieldError(f"{name} is empty: upload an image", name, "invalid_image")
    return data
