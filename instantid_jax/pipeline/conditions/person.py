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
      negatives: for each image [E] float32, what guidance subtracts; None is nobody's embedding.
    """

    embeddings: np.ndarray
    keypoints: np.ndarray
    negatives: tuple[np.ndarray | None, ...]


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
        negatives=tuple(
            negative_embedding(seed, request.negative_id_noise, length)
            for request in requests
            for seed in request.seeds
        ),
    )


def encode_person(
    model: LoadedModel, inputs: PersonInputs
) -> tuple[jax.Array | np.ndarray, jax.Array]:
    """Encodes the embeddings of nobody, with noise where it is asked for, and of the persons.

    Returns:
      ID tokens that guidance subtracts, [images, N, D], and of the persons, [B, N, D].
    """
    network, params = model.networks.image_proj, model.params["image_proj"]
    negative = np.repeat(np.asarray(model.nobody), len(inputs.negatives), axis=0)
    for i, embedding in enumerate(inputs.negatives):
        if embedding is not None:
            # One by one, with nobody's program.
            negative[i : i + 1] = programs.encode_id(network, params, embedding[None])
    return model.place(negative), programs.encode_id(network, params, inputs.embeddings)


def negative_embedding(seed: int, noise: float, length: int) -> np.ndarray | None:
    """Uniform numbers in [0, noise) that a seed draws, [length] float32; None without noise.

    They are the same on every system: of Philox's bits, 24 for each number.
    """
    if not noise:
        return None
    bits = np.random.Philox(key=seed).random_raw(length)
    return (noise * (bits >> np.uint64(40)).astype(np.float64) * 2.0**-24).astype(np.float32)


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
