"""What a call tells the networks, on the host: tokens of text and person, sizes, pictures."""

from collections.abc import Sequence

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.face.keypoints import draw_keypoints
from instantid_jax.pictures import Picture
from instantid_jax.pipeline.inputs import batched, control_picture
from instantid_jax.pipeline.programs import Prompts

# What both text encoders are to read: [B] texts each.
Texts = tuple[list[str], list[str]]


def prompts_given(
    prompts: tuple[str | Sequence[str] | None, str | Sequence[str] | None],
    embeds: tuple[np.ndarray | None, np.ndarray | None],
    count: int,
    what: str,
    widths: tuple[int, int],
    dtype: np.dtype,
) -> Texts | Prompts | None:
    """Texts for both encoders, or their states where those are given ready; None for neither.

    Args:
      prompts: for text encoders 1 and 2; each stands for the other where that is None.
      embeds: hidden and pooled states; both or neither.
      what: "prompt" or "negative_prompt", for messages.
      widths, dtype: of hidden and pooled states.
    """
    pooled_name = f"{what.replace('prompt', 'pooled_prompt')}_embeds"
    if (embeds[0] is None) != (embeds[1] is None):
        raise InputError(f"{what}_embeds and {pooled_name}: give both or neither")
    if embeds[0] is None:
        return None if prompts == (None, None) else _texts(prompts, count, what)
    if prompts != (None, None):
        raise InputError(f"{what} and {what}_embeds are both given: give one")
    return Prompts(
        _states(embeds[0], (count, None, widths[0]), f"{what}_embeds", dtype),
        _states(embeds[1], (count, widths[1]), pooled_name, dtype),
    )


def _texts(
    prompts: tuple[str | Sequence[str] | None, str | Sequence[str] | None], count: int, what: str
) -> Texts:
    first, second = prompts
    first, second = second if first is None else first, first if second is None else second
    both = batched(first, count, what), batched(second, count, f"{what}_2")
    for text in (*both[0], *both[1]):
        if not isinstance(text, str):
            raise InputError(f"{what} holds a {type(text).__name__}: expected text")
    return both


def _states(
    value: np.ndarray, expected: tuple[int | None, ...], name: str, dtype: np.dtype
) -> np.ndarray:
    array = np.asarray(value)
    fits = array.ndim == len(expected) and array.shape[0] in (1, expected[0])
    if not fits or any(
        want not in (None, got) for want, got in zip(expected[1:], array.shape[1:], strict=True)
    ):
        told = ", ".join("L" if want is None else str(want) for want in expected)
        raise InputError(f"{name} has shape {list(array.shape)}: expected [{told}]")
    return np.broadcast_to(array.astype(dtype), (expected[0], *array.shape[1:]))


def check_faces(
    face: Face | Sequence[Face] | None, image_embeds: np.ndarray | None, count: int
) -> list[Face | None]:
    """Whom each picture shows; None where embeddings are given ready."""
    if (face is None) == (image_embeds is None):
        raise InputError("give face or image_embeds, one of them")
    faces = batched(face, count, "face")
    for each in faces:
        if face is not None and not isinstance(each, Face):
            raise InputError(
                f"face is a {type(each).__name__}: expected a Face; of a photo, "
                "pipe.analyze(photo) makes one"
            )
    return faces


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
        if given.shape[-1:] != (length,) or given.size // length not in (1, count):
            raise InputError(
                f"image_embeds has shape {list(given.shape)}: expected [{length}] or "
                f"[{count}, {length}], raw embeddings"
            )
        rows = list(np.broadcast_to(given.reshape(-1, length), (count, length)))
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


def unit_noise(latents: np.ndarray, count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Noise that was given for so many pictures of a shape, as float32."""
    if np.shape(latents) != (count, *shape):
        raise InputError(
            f"latents have shape {list(np.shape(latents))}: expected {[count, *shape]}, "
            "unit-variance noise with channels last"
        )
    noise = np.asarray(latents, np.float32)
    if not np.isfinite(noise).all():
        raise InputError("latents hold numbers that are not finite: expected unit noise")
    return noise
