"""What a call tells the networks, on the host: tokens of text and person, sizes, pictures."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.face.keypoints import draw_keypoints
from instantid_jax.pictures import Picture
from instantid_jax.pipeline.inputs import batched, control_picture

# Encodes prompts for both encoders at a clip skip: (texts 1, texts 2, skip) -> states and pooled.
Encode = Callable[[Sequence[str], Sequence[str], int], tuple[jax.Array, jax.Array]]


def text_rows(
    encode: Encode,
    prompts: tuple[Sequence[str] | None, Sequence[str] | None],
    embeds: tuple[np.ndarray | None, np.ndarray | None],
    clip_skip: int,
    count: int,
    what: str,
) -> tuple[jax.Array, jax.Array]:
    """Hidden states [B, L, D] and pooled states [B, P] of prompts, or those given ready.

    Args:
      prompts: for text encoders 1 and 2; None where `embeds` are given.
      embeds: hidden and pooled states; both or neither.
      what: "prompt" or "negative_prompt", for messages.
    """
    hidden, pooled = embeds
    if (hidden is None) != (pooled is None):
        raise InputError(
            f"{what}_embeds and {what.replace('prompt', 'pooled_prompt')}_embeds: "
            "give both or neither"
        )
    if hidden is None:
        return encode(*prompts, clip_skip)
    if prompts[0] is not None or prompts[1] is not None:
        raise InputError(f"{what} and {what}_embeds are both given: give one")
    return (
        _array(hidden, count, 3, f"{what}_embeds"),
        _array(pooled, count, 2, f"pooled {what}_embeds"),
    )


def _array(value: np.ndarray, count: int, rank: int, name: str) -> jax.Array:
    array = jnp.asarray(value)
    if array.ndim != rank or array.shape[0] not in (1, count):
        raise InputError(
            f"{name} has shape {array.shape}: expected {rank} dimensions, the first {count}"
        )
    return jnp.broadcast_to(array, (count, *array.shape[1:]))


def embeddings_of(
    faces: Sequence[Face | None], image_embeds: np.ndarray | None, length: int
) -> np.ndarray:
    """[B, E] float32 raw face embeddings, from faces or given ready.

    Args:
      length: E, which the adapter expects.
    """
    count = len(faces)
    if image_embeds is None:
        rows = [face.embedding for face in faces]
    else:
        given = np.asarray(image_embeds, np.float32)
        if (
            given.ndim == 0
            or given.size % given.shape[-1]
            or given.size // given.shape[-1]
            not in (
                1,
                count,
            )
        ):
            raise InputError(
                f"image_embeds has shape {given.shape}: expected [{length}] or [{count}, {length}]"
            )
        rows = list(np.broadcast_to(given.reshape(-1, given.shape[-1]), (count, given.shape[-1])))
    for row in rows:
        if row.size != length:
            raise InputError(
                f"a face embedding of {row.size} numbers: the adapter expects {length}; take the "
                "face pack it was trained with (antelopev2 for the published InstantID)"
            )
    embeddings = np.stack(rows).astype(np.float32)
    if not np.isfinite(embeddings).all():
        raise InputError("a face embedding holds numbers that are not finite")
    return embeddings


def keypoint_pictures(
    faces: Sequence[Face | None],
    poses: Sequence[Face | None],
    kps: np.ndarray | None,
    image: Picture | Sequence[Picture] | None,
    size: tuple[int, int],
) -> np.ndarray:
    """IdentityNet's pictures, [B, H, W, 3] uint8: given drawn, or drawn from keypoints.

    Args:
      poses: whose keypoints count in place of the faces'.
      kps: [5, 2] or [B, 5, 2] in pixels of the output, in place of either.
      image: keypoints already drawn, in place of all.
      size: height and width of the output.
    """
    count = len(faces)
    if image is not None:
        if isinstance(image, np.ndarray) and image.ndim == 4:
            image = list(image)
        return np.stack([control_picture(i, size) for i in batched(image, count, "image")])
    if kps is not None:
        points = np.asarray(kps, np.float32)
        if points.shape not in ((5, 2), (1, 5, 2), (count, 5, 2)):
            raise InputError(f"kps has shape {points.shape}: expected [5, 2] or [{count}, 5, 2]")
        points = np.broadcast_to(points, (count, 5, 2))
    else:
        shown = [pose or face for face, pose in zip(faces, poses, strict=True)]
        if None in shown:
            raise InputError("image_embeds is given without keypoints: give image, kps or pose")
        points = [face.kps_for(*size) for face in shown]
    return np.stack([draw_keypoints(*size, each) for each in points])


def further_pictures(
    control_images: Sequence[Picture | Sequence[Picture]],
    nets: int,
    count: int,
    size: tuple[int, int],
) -> list[np.ndarray]:
    """Pictures of the further ControlNets, each [B, H, W, 3] uint8."""
    if isinstance(control_images, str) or not isinstance(control_images, Sequence):
        control_images = [control_images]
    if len(control_images) != nets:
        raise InputError(
            f"control_images has {len(control_images)} entries, {nets} further ControlNets are "
            "loaded: give one picture, or one list of pictures, for each"
        )
    return [
        np.stack([control_picture(p, size) for p in batched(each, count, "control_images")])
        for each in control_images
    ]
