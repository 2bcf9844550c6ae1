"""`/v1/faces`: photos of a person in, an id for further requests out."""

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from instantid_jax.face.face import Face
from instantid_jax.request.checks import check_flag
from instantid_jax.serving.http.errors import FieldError, ServiceError
from instantid_jax.serving.http.forms import Form, read_form
from instantid_jax.serving.http.generation import check_ready, following
from instantid_jax.serving.http.service import Service

FACES = "/v1/faces"
FIELDS = ("image", "embedding")


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post(FACES)
    async def add(http: HttpRequest) -> dict[str, Any]:
        """Measures the face in each photo, and keeps their mean."""
        check_ready(service)
        owner = http.state.owner
        with service.admission.enter(owner):
            form = await read_form(http, frozenset(("image",)))
            async with following(http) as client:
                work = service.workers.submit(_measured, service, form, owner)
                return await client.unless_left(asyncio.wrap_future(work))

    @routes.delete(FACES + "/{name}", status_code=204)
    async def remove(http: HttpRequest, name: str) -> Response:
        """Forgets a face."""
        work = service.workers.submit(service.faces.remove, name, http.state.owner)
        if not await asyncio.wrap_future(work):
            raise ServiceError(404, "no such face, or it has expired", code="face_not_found")
        return Response(status_code=204)

    return routes


def _measured(service: Service, form: Form, owner: str) -> dict[str, Any]:
    for name in (*form.values, *form.files):
        if name not in FIELDS:
            raise FieldError(
                f"unknown argument {name[:100]}: expected image, embedding", name[:100]
            )
    photos = form.files.get("image", [])
    if not any(photos):
        raise FieldError("no photo: give one as image", "image", "missing_required_parameter")
    if len(photos) > service.limits.photos:
        raise FieldError(
            f"image has {len(photos)} files: expected at most {service.limits.photos}", "image"
        )
    shown = _flag(form)
    faces = service.analyst.person(photos, "image")
    name, kept = service.faces.add(Face.mean(faces), owner)
    # The embedding shows what somebody looks like: only who asks for it gets it.
    own = {"embedding": kept.face.embedding.tolist()} if shown else {}
    return {
        "id": name,
        "object": "face",
        "count": len(faces),
        "expires_at": int(kept.expires),
        "faces": [_described(face) for face in faces],
        "cosine": _cosines(faces),
        **own,
    }


def _flag(form: Form) -> bool:
    value = form.values.get("embedding", False)
    if form.encoded and value:
        value = {"true": True, "false": False}.get(str(value[-1]).lower(), value[-1])
    return check_flag("embedding", value)


def _described(face: Face) -> dict[str, Any]:
    return {
        "det_score": face.det_score,
        "bbox": None if face.bbox is None else face.bbox.tolist(),
        "kps": face.kps.tolist(),
        "image_size": face.image_size,
    }


def _cosines(faces: list[Face]) -> list[list[float]]:
    """How alike each two faces are; below about 0.3 they are hardly of one person."""
    each = np.stack([face.embedding / np.linalg.norm(face.embedding) for face in faces])
    return (each @ each.T).round(4).tolist()
