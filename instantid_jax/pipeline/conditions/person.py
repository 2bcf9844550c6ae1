"""The person: face embeddings, and the images of keypoints that IdentityNet reads."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.face.keypoints import draw_keypoints
from instantid_jax.pipeline import programs
from instantid_jax.pipeline.conditions.control import resize
from instantid_jax.pipeline.conditions.view import View
from instantid_jax.pipeline.model import LoadedModel
from instantid_jax.request.request import Request


@dataclasses.dataclass(frozen=True, eq=False)
class PersonInputs:
    """The persons of B requests.

    Attributes:
      embeddings: [B, E] float32, raw.
      keypoints: [B, H, W, 3] uint8, drawn.
    """

    embeddings: np.ndarray
    keypoints: np.ndarray


def resolve_person(
    model: LoadedModel,
    requests: Sequence[Request],
    views: Sequence[View | None],
    size: tuple[int, int],
) -> PersonInputs:
    """Checks and draws.

    Args:
      views: the part of an image that each request changes.
      size: (height, width) of the images.
    Raises:
      InputError: if a person or keypoints are missing, or an embedding does not fit the adapter.
    """
    length = model.networks.image_proj.config.embedding_dim
    return PersonInputs(
        embeddings=np.stack([_embedding(request, length) for request in requests]),
        keypoints=np.stack(
            [_keypoints(request, view, size) for request, view in zip(requests, views, strict=True)]
        ),
    )


def encode_person(model: LoadedModel, inputs: PersonInputs) -> tuple[jax.Array, jax.Array]:
    """ID tokens of nobody, [1, N, D], which guidance subtracts, and of the persons, [B, N, D]."""
    network, params = model.networks.image_proj, model.params["image_proj"]
    return model.nobody, programs.encode_id(network, params, inputs.embeddings)


def _embedding(request: Request, length: int) -> np.ndarray:
    face, given = request.face, request.image_embeds
    if face is None and given is not None:
        if given.size != length:
            raise InputError(
                f"image_embeds has {given.size} numbers: expected [{length}], a raw face embedding"
            )
        return given
    if face is None or given is not None:
        raise InputError("give either face or image_embeds")
    embedding = np.asarray(face.embedding, np.float32)
    if embedding.size != length:
        raise InputError(
            f"the face embedding has {embedding.size} numbers: the adapter expects {length}; use "
            "the face pack it was trained with (antelopev2 for the published InstantID)"
        )
    return embedding


def _keypoints(request: Request, view: View | None, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8: an image of drawn keypoints, or keypoints drawn.

    With a view, an image of keypoints and a pose lie in the whole image.
    """
    if request.kps_image is not None:
        if view is None:
            return resize(request.kps_image, size)
        return view.cut(resize(request.kps_image, view.image.shape[:2]), size)
    if request.kps is not None:
        return draw_keypoints(*size, request.kps)
    shown = request.pose or request.face
    if shown is None:
        raise InputError("image_embeds is given without keypoints: give image, kps or pose")
    return draw_keypoints(*size, shown.kps_for(*size) if view is None else view.place(shown, size))
