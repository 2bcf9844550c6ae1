"""Request: everything that the images of one prompt are asked to be."""

import dataclasses
import os
from typing import Any, Self

import numpy as np

from instantid_jax.arrays import float_array
from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.images import ImageInput
from instantid_jax.request.aliases import refuse_unknown
from instantid_jax.request.checks import check_text
from instantid_jax.request.settings import Settings

# Prompts that are given encoded: the hidden states' field, and that of the pooled state.
EMBEDS = {
    "prompt_embeds": "pooled_prompt_embeds",
    "negative_prompt_embeds": "negative_pooled_prompt_embeds",
}
# Images for each ControlNet after IdentityNet.
PER_NET = ("control_images", "control_masks")


@dataclasses.dataclass(frozen=True, eq=False)
class Request(Settings):
    """The images of one prompt: `Settings`, with the person, the prompt and what is drawn.

    Attributes:
      prompt: what to show.
      face: the person to show. Supplies the embedding and, unless `pose` is given, the keypoints.
      pose: a Face that supplies the keypoints instead.
      image: an image to begin with instead of noise alone; the face in it supplies the keypoints,
        if nothing else does.
      mask_image: white where the image is painted over, of its size; gray levels change later.
      kps: [5, 2] keypoints in pixels of the output, instead of the face's.
      kps_image: an image of drawn keypoints, instead of all others.
      control_images: one image for each ControlNet after IdentityNet; None, or no image at all,
        switches them off.
      control_mask: white where IdentityNet and the Image Adapter count, gray where less.
      control_masks: the same for each ControlNet after IdentityNet; None is everywhere.
      image_embeds: [E], a raw face embedding instead of `face`.
      prompt_embeds, negative_prompt_embeds: [L, D], hidden states instead of the prompt.
      pooled_prompt_embeds, negative_pooled_prompt_embeds: [P], the pooled states with them.
      latents: [num_images_per_prompt, H/8, W/8, C] unit-variance noise instead of the seed's; with
        `denoising_start` the latents to continue with.
    Raises:
      InputError: for a value that no model takes, or two that exclude each other.
    """

    prompt: str | None = None
    _: dataclasses.KW_ONLY
    face: Face | None = None
    pose: Face | None = None
    image: ImageInput | None = None
    mask_image: ImageInput | None = None
    kps: np.ndarray | None = None
    kps_image: ImageInput | None = None
    control_images: tuple[ImageInput | None, ...] = ()
    control_mask: ImageInput | None = None
    control_masks: tuple[ImageInput | None, ...] = ()
    image_embeds: np.ndarray | None = None
    prompt_embeds: np.ndarray | None = None
    pooled_prompt_embeds: np.ndarray | None = None
    negative_prompt_embeds: np.ndarray | None = None
    negative_pooled_prompt_embeds: np.ndarray | None = None
    latents: np.ndarray | None = None

    # Settings compare by value, which arrays and faces do not.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __post_init__(self):
        super().__post_init__()
        if self.prompt is not None:
            check_text("prompt", self.prompt)
        for name in ("face", "pose"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Face):
                raise InputError(
                    f"{name} is a {type(value).__name__}: expected a Face; pipe.analyze(photo) "
                    "makes one"
                )
        self._check_prompts()
        self._check_image()
        for name in PER_NET:
            value = getattr(self, name)
            if isinstance(value, str):
                raise InputError(f"{name}={value!r}: expected a list of images")
            object.__setattr__(self, name, tuple(value))
        self._set_array("kps", (5, 2))
        self._set_array("image_embeds", (None,), flat=True)
        self._set_array("latents", (None,) * 4)
        for hidden, pooled in EMBEDS.items():
            self._set_array(hidden, (None, None))
            self._set_array(pooled, (None,))

    def _check_image(self) -> None:
        for name in ("mask_image", "strength"):
            if self.image is None and getattr(self, name) is not None:
                raise InputError(f"{name} without image: give the image to begin with")
        if self.denoising_start is not None:
            if self.image is None and self.latents is None:
                raise InputError(
                    "denoising_start without image or latents: give what to continue with"
                )
            if self.mask_image is not None and self.latents is not None:
                raise InputError(
                    "denoising_start with mask_image and latents: leave latents out, the image "
                    "says what to continue with"
                )
        for name in ("padding_mask_crop", "mask_blur"):
            if self.mask_image is None and getattr(self, name) is not None:
                raise InputError(f"{name} without mask_image: give a mask")

    def _check_prompts(self) -> None:
        for hidden, pooled in EMBEDS.items():
            given = getattr(self, hidden) is not None
            if given != (getattr(self, pooled) is not None):
                raise InputError(f"{hidden} and {pooled}: give both or neither")
            prompt = hidden.removesuffix("_embeds")
            texts = (getattr(self, prompt), getattr(self, f"{prompt}_2"))
            if given and texts != (None, None):
                raise InputError(f"{prompt} and {hidden} are both given: give one")

    def _set_array(self, name: str, shape: tuple[int | None, ...], flat: bool = False) -> None:
        """Replaces what is given by an array of float32; checks its shape and numbers."""
        value = getattr(self, name)
        if value is None:
            return
        array = float_array(name, value)
        array = array.reshape(-1) if flat else array
        fits = array.ndim == len(shape) and all(
            want in (None, got) for want, got in zip(shape, array.shape, strict=True)
        )
        if not fits:
            expected = ", ".join("*" if want is None else str(want) for want in shape)
            raise InputError(f"{name} has shape {list(array.shape)}: expected [{expected}]")
        if not np.isfinite(array).all():
            raise InputError(f"{name} holds numbers that are not finite")
        object.__setattr__(self, name, array)

    @property
    def settings(self) -> Settings:
        """The words and numbers alone, which compare and hash by value."""
        return Settings(**self.values())

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each image."""
        return tuple(self.seed + i for i in range(self.num_images_per_prompt))

    def alone(self, i: int) -> Self:
        """The request of image `i` alone."""
        latents = None if self.latents is None else self.latents[i : i + 1]
        changes = {"seed": self.seed + i, "num_images_per_prompt": 1, "latents": latents}
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_image(cls, path: str | os.PathLike[str], **changes: Any) -> "Request":
        """Reads the request that `Result.save` or `instantid generate` recorded in an image file.

        Args:
          changes: fields instead of what is recorded, such as another face.
        Raises:
          InputError: if the file does not say how it was made, or something it was made with is not
            in it (encoded prompts, latents, images given as arrays) and not in `changes`.
        """
        from instantid_jax.request.provenance import Provenance  # It is made of requests.

        known = [field.name for field in dataclasses.fields(Request)]
        refuse_unknown([name for name in changes if name not in known], known)
        return Provenance.read(path).changed(changes)
