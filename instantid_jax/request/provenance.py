"""Provenance: how an image was made, recorded in its file and read back."""

import base64
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.image_files import DESCRIPTION, read_text
from instantid_jax.paths import local_path
from instantid_jax.request.checks import check_text, optional
from instantid_jax.request.request import EMBEDS, PER_NET, Request
from instantid_jax.request.settings import Settings
from instantid_jax.request.webui import KEY, read_parameters, write_parameters

CHUNK = "instantid"
# Too large for an image's text.
UNRECORDED = ("latents", *EMBEDS, *EMBEDS.values())
PATHS = ("kps_image", "image", "mask_image", "control_mask")
# What says who is shown.
PERSONAL = ("face", "pose", "image_embeds")
DTYPES = ("float32", "bfloat16", "float16")
LARGEST_BATCH = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Provenance:
    """How one image was made.

    Attributes:
      request: as it was called, with the size and guidance scale that were resolved.
      image: which of the request's images this is.
      position: the request's place in its batch, of `requests`. Rounding depends on the batch: the
        same bytes come out of a batch of the same shape.
      unrecorded: names of what a file does not record and the request lacks.
      facts: the version, the scheduler, dtypes, a hash of the weights, and what the caller adds.
      chunks: the number in the batch's longest prompt; shorter ones are continued with empty ones.
    """

    request: Request
    image: int = 0
    position: int = 0
    requests: int = 1
    unrecorded: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    chunks: int = 1

    @property
    def has_person(self) -> bool:
        return self.request.face is not None or self.request.image_embeds is not None

    def changed(self, changes: Mapping[str, Any]) -> Request:
        """The request of this image alone, with other values for some fields.

        Raises:
          InputError: if something that is not recorded is not among the changes.
        """
        for name in self.unrecorded:
            if name not in changes:
                raise InputError(
                    f"the image was made with {name}, which its file does not record: give {name}"
                )
        nobody = {"image_embeds": None} if "face" in changes else {}
        return dataclasses.replace(self.request.alone(self.image), **nobody | dict(changes))

    def anonymous(self) -> Self:
        """The same without the person, for images that others may see.

        A face's embedding is biometric: a likeness can be made from it.
        """
        given = [name for name in PERSONAL if getattr(self.request, name) is not None]
        request = dataclasses.replace(self.request, **dict.fromkeys(given))
        return dataclasses.replace(self, request=request, unrecorded=(*self.unrecorded, *given))

    def made_by(self, prompt: str | None, settings: Settings) -> bool:
        """Whether this image alone has this prompt and these settings."""
        alone = self.changed({})
        return (prompt, settings) == (alone.prompt, alone.settings)

    def is_of(self, request: Request) -> bool:
        """Whether this image's request is another one; a size and scale of None are any."""
        faces = ["face", "pose"]
        if request.pose is None and request.image is not None:
            faces.remove("pose")  # It is found in the image while that is changed.
        if self.unrecorded or not all(
            _alike(getattr(self.request, name), getattr(request, name)) for name in faces
        ):
            return False
        ours, theirs = (_encode(each)[0] for each in (self.request, request))
        resolved = [name for name in ("height", "width", "guidance_scale") if theirs[name] is None]
        return all(
            ours.get(name) == theirs.get(name)
            for name in {*ours, *theirs} - {*resolved, "face", "pose"}
        )

    @property
    def batch(self) -> list[Request]:
        """A batch of the original one's shape, in which this image has its original place."""
        others = self.request
        if self.chunks > 1 and others.prompt_embeds is None:
            texts = {"prompt": " BREAK ".join(["a"] * self.chunks), "prompt_2": None}
            negatives = ("negative_prompt", "negative_prompt_2")
            texts |= {name: "" for name in negatives if getattr(others, name) is not None}
            others = dataclasses.replace(others, **texts, prompt_weighting=True)
        batch = [others] * self.requests
        batch[self.position] = self.request
        return batch

    @property
    def row(self) -> int:
        """The image's place among the images of `batch`."""
        return self.position * self.request.num_images_per_prompt + self.image

    def to_text(self, facts: Mapping[str, Any]) -> dict[str, str]:
        """The texts of the image's file: ours, the prompt, and the web UI's.

        Args:
          facts: more to record; what JSON does not know is recorded as text.
        """
        facts = {**self.facts, **facts}
        request, unrecorded = _encode(self.request)
        unrecorded = [*unrecorded, *(name for name in self.unrecorded if name not in unrecorded)]
        ours = {
            **facts,
            "request": request,
            "unrecorded": unrecorded,
            "image": self.image,
            "position": self.position,
            "requests": self.requests,
            "chunks": self.chunks,
        }
        prompt = self.request.prompt or ""
        parameters = write_parameters(
            prompt, self.request.alone(self.image), facts["scheduler"], facts["version"]
        )
        return {
            DESCRIPTION: prompt,
            CHUNK: json.dumps(ours, ensure_ascii=False, default=str),
            KEY: parameters,
        }

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Reads an image that `Result.save`, the command or AUTOMATIC1111's web UI wrote.

        Raises:
          InputError: if the file is not such an image, or its text is damaged.
        """
        text = _read_text(local_path(path))
        if CHUNK not in text:
            try:
                return cls(Request(**read_parameters(text[KEY])))
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
        try:
            ours = json.loads(text[CHUNK])
            # Before there were weights, prompts were literal.
            values: dict[str, Any] = {"prompt_weighting": False, **_decode(ours.pop("request"))}
            request, unrecorded = Request(**values), tuple(ours.pop("unrecorded"))
            place = {name: int(ours.pop(name)) for name in ("image", "position", "requests")}
            place["chunks"] = int(ours.pop("chunks", 1))
            read = cls(request, **place, unrecorded=unrecorded, facts=ours)
            read._check()
        except InputError as error:
            raise InputError(f"{path}: its text {CHUNK!r} is damaged: {error}") from error
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise InputError(f"{path}: its text {CHUNK!r} is damaged: take another file") from error
        return read

    def _check(self) -> None:
        """Raises InputError if the place or a fact is not one that an image can have."""
        images = self.request.num_images_per_prompt
        in_batch = 0 <= self.position < self.requests <= LARGEST_BATCH
        if not (0 <= self.image < images and in_batch and 1 <= self.chunks <= LARGEST_BATCH):
            raise InputError(
                f"image {self.image} of {images}, request {self.position} of {self.requests}, "
                f"{self.chunks} chunks"
            )
        style = self.facts.get("style")
        if style is not None:
            # The prompts before the style added to them.
            check_text("prompt", style["prompt"])
            optional(check_text)("negative_prompt", style["negative_prompt"])
        weights = self.facts.get("weights")
        if not isinstance(weights, Mapping | None):
            raise InputError(f"weights={weights!r}")
        for name, known in (("dtype", DTYPES), ("vae_dtype", DTYPES)):
            if self.facts.get(name) not in (None, *known):
                raise InputError(f"{name}={self.facts[name]!r}")


def _read_text(path: Path) -> dict[str, str]:
    text = read_text(path)
    if CHUNK not in text and KEY not in text:
        raise InputError(
            f"{path} does not say how it was made (no text {CHUNK!r} or {KEY!r}): give an image as "
            "`instantid generate` wrote it, not edited since"
        )
    return text


def _encode(request: Request) -> tuple[dict[str, Any], list[str]]:
    """A request's values in types that JSON knows, and the names of what is left out."""
    values: dict[str, Any] = request.to_json() | {"prompt": request.prompt}
    unrecorded = [name for name in UNRECORDED if getattr(request, name) is not None]
    for name in ("face", "pose"):
        if (face := getattr(request, name)) is not None:
            values[name] = _encode_face(face)
    if request.kps is not None:
        values["kps"] = request.kps.tolist()
    if request.image_embeds is not None:
        values["image_embeds"] = _encode_array(request.image_embeds)
    images = {
        name: [getattr(request, name)] for name in PATHS if getattr(request, name) is not None
    }
    images |= {name: list(getattr(request, name)) for name in PER_NET if getattr(request, name)}
    for name, given in images.items():
        if all(isinstance(each, str | os.PathLike | None) for each in given):
            paths = [None if each is None else os.path.abspath(each) for each in given]
            values[name] = paths if name in PER_NET else paths[0]
        else:
            unrecorded.append(name)
    return values, unrecorded


def _alike(one: Face | None, other: Face | None) -> bool:
    """Whether two measurements of faces are the same but for rounding."""
    if one is None or other is None:
        return one is other
    if (one.embedding.shape, one.image_size) != (other.embedding.shape, other.image_size):
        return False
    arrays = ((one.embedding, other.embedding), (one.kps, other.kps))
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-2) for a, b in arrays)


def _decode(values: Mapping[str, Any]) -> dict[str, Any]:
    decoded = dict(values)
    for name in ("face", "pose"):
        if name in values:
            decoded[name] = _decode_face(values[name])
    if "image_embeds" in values:
        decoded["image_embeds"] = _decode_array(values["image_embeds"])
    return decoded


def _encode_face(face: Face) -> dict[str, Any]:
    values = {
        "embedding": _encode_array(face.embedding),
        "kps": face.kps.tolist(),
        "image_size": None if face.image_size is None else list(face.image_size),
        "det_score": face.det_score,
        "face_pack": face.face_pack,
        "recognizer": face.recognizer,
    }
    return {name: value for name, value in values.items() if value is not None}


def _decode_face(values: Mapping[str, Any]) -> Face:
    fields: dict[str, Any] = {**values, "embedding": _decode_array(values["embedding"])}
    return Face(**fields)


def _encode_array(array: np.ndarray) -> str:
    """float32, little-endian, in base64: exact, and a third of its decimal digits."""
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def _decode_array(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4")
