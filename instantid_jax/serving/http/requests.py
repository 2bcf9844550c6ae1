"""Requests of the engine, from the fields of a body."""

from collections.abc import Callable
from typing import Any

import numpy as np

from instantid_jax.face.face import Face
from instantid_jax.request import Request
from instantid_jax.serving.http.errors import FieldError
from instantid_jax.serving.http.fields import IMAGES, MASKS, Fields
from instantid_jax.serving.http.limits import Lease
from instantid_jax.serving.http.service import Service
from instantid_jax.serving.http.uploads import named, read_mask, read_upload


def build_request(
    service: Service, fields: Fields, owner: str, lease: Lease, check: Callable[[], None]
) -> Request:
    """The request that fields describe; finds faces, so it takes a while.

    Args:
      lease: holds the memory of the images, and of results that are as large.
      check: is called between images; raises if nobody waits for the request any more.
    Raises:
      InputError: for images that cannot be used, and values that exclude each other.
      ServiceError: if the memory is full.
    """
    values = dict(fields.request)
    images: dict[str, list[np.ndarray | None]] = {}
    for name, field in IMAGES.items():
        if name not in fields.files:
            continue
        images[name] = []
        for data, label in zip(fields.files[name], named(name, fields.files[name]), strict=True):
            check()
            read = read_mask if name in MASKS else read_upload
            pixels = None if data is None else read(data, label, service.limits.pixels)
            lease.take(0 if pixels is None else pixels.nbytes)
            images[name].append(pixels)
        values[field] = images[name] if field.endswith("s") else images[name][0]
    if values.get("mask_image") is not None:
        # The results are as large as what they are pasted into.
        lease.take(values["num_images_per_prompt"] * values["image"].nbytes)
    check()
    values |= _people(service, fields, owner, values)
    values["height"], values["width"] = _size(service, fields, values)
    return Request(**values)


def _people(
    service: Service, fields: Fields, owner: str, values: dict[str, Any]
) -> dict[str, Face]:
    """The person and the pose of a request."""
    people: dict[str, Face] = {}
    analyst = service.analyst
    if any(fields.files.get("image", ())):
        people["face"] = Face.mean(analyst.person(fields.files["image"], "image"))
    elif fields.face_id is not None:
        people["face"] = _kept(service, fields.face_id, owner)
    elif values.get("image_embeds") is None:
        if service.default is None:
            raise FieldError("no person: give a photo as image, or a face_id", "image", "no_person")
        people["face"] = service.default
    pose = fields.files.get("pose", [None])[0]
    if pose is not None:
        people["pose"] = analyst.face(read_upload(pose, "pose", service.limits.pixels), "pose")
    elif values.get("image") is not None and not {"kps", "kps_image"} & values.keys():
        # The face in the image to begin with is where the person's goes.
        people["pose"] = analyst.face(values["image"], "source")
    return people


def _kept(service: Service, name: str, owner: str) -> Face:
    face = service.faces.find(name, owner)
    if face is None:
        raise FieldError(
            "face_id: no such face, or it has expired: upload the photos again",
            "face_id",
            "face_not_found",
        )
    return face


def _size(service: Service, fields: Fields, values: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of the images."""
    height, width = values.get("height"), values.get("width")
    if height is not None and width is not None:
        return service.sizes.check(height, width)
    if (height is None) != (width is None):
        raise FieldError(f"height={height}, width={width}: give both or neither", "height")
    size = None if fields.size is None else service.sizes.parse(fields.size)
    if size is not None:
        return size
    for name in ("image", "kps_image"):
        if values.get(name) is not None:
            return service.sizes.nearest(values[name].shape[:2])
    face = values.get("face")
    return service.sizes.nearest(None if face is None else face.image_size)
