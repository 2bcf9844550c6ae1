"""Generation: what the Generate node asks for, in the library's terms; a Model makes its images."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from instantid_jax.diffusion.names import BASES
from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.request.settings import Settings

# Takes the sampler of the checkpoint.
OWN_SAMPLER = "checkpoint"
SAMPLERS = (OWN_SAMPLER, *BASES)
SCHEDULERS = ("normal", "karras", "trailing", "linspace")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Generation:
    """The images of a run of the Generate node.

    Attributes:
      prompt: what to show.
      settings: all but the windows.
      start_at, end_at: share of the noise levels at which the person counts, from 0, pure noise.
      photos: one person's, each uint8 [H, W, 3].
      face: the person, instead of photos.
      combine_embeds: how several photos become one person; see `people.COMBINE`.
      image_kps: a photo whose keypoints are used instead, uint8 [H, W, 3].
      images: uint8 [H, W, 3], by their names in `Request`: image, mask_image, control_mask,
        kps_image.
    """

    prompt: str
    settings: Settings
    start_at: float
    end_at: float
    photos: tuple[np.ndarray, ...]
    face: Face | None
    combine_embeds: str
    image_kps: np.ndarray | None
    images: Mapping[str, np.ndarray]

    def __post_init__(self):
        if self.start_at >= self.end_at:
            raise InputError(
                f"start_at={self.start_at:g} must be below end_at={self.end_at:g}: for images "
                "without the person, set ip_weight and cn_strength to 0"
            )
        if (self.face is None) == (not self.photos):
            given = "neither" if self.face is None else "both"
            raise InputError(
                f"{given} of image and face connected: connect photos of the person to image, or "
                "the output of Analyze Face to face"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Generated:
    """Images, each uint8 [H, W, 3], and how each was made: its seed, and the texts of a PNG."""

    images: list[np.ndarray]
    provenance: list[dict[str, Any]]


class Model(Protocol):
    """Anything that makes images: the sockets of models carry it."""

    def analyze(self, photos: tuple[np.ndarray, ...], combine_embeds: str) -> Face: ...

    def generate(self, generation: Generation) -> Generated: ...


def settings_of(inputs: Mapping[str, Any]) -> Settings:
    """Settings from the widgets of the Generate node.

    Raises:
      InputError: for a value that no model takes.
    """
    return Settings(
        negative_prompt=inputs["negative_prompt"] or None,
        height=inputs["height"] or None,
        width=inputs["width"] or None,
        num_inference_steps=inputs["steps"],
        guidance_scale=inputs["cfg"] or None,
        ip_adapter_scale=inputs["ip_weight"],
        controlnet_conditioning_scale=inputs["cn_strength"],
        negative_id_noise=inputs["noise"],
        scheduler=sampler_of(inputs["sampler_name"], inputs["scheduler"]),
        # Without an image to begin with, 1 is the only strength there is.
        strength=_strength(inputs["denoise"], inputs.get("source") is not None),
        seed=inputs["seed"],
        num_images_per_prompt=inputs["batch_size"],
    )


def sampler_of(sampler_name: str, scheduler: str) -> str | None:
    """The library's name of a sampler with a spacing of its steps.

    Raises:
      InputError: for the checkpoint's own sampler with another spacing.
    """
    if sampler_name == OWN_SAMPLER:
        if scheduler != "normal":
            raise InputError(
                f"scheduler={scheduler!r} with sampler_name={OWN_SAMPLER!r}: name a sampler, or "
                "set scheduler to normal"
            )
        return None
    return sampler_name if scheduler == "normal" else f"{sampler_name}_{scheduler}"


def _strength(denoise: float, has_source: bool) -> float | None:
    if not has_source and denoise < 1:
        raise InputError(
            f"denoise={denoise:g} without source: connect the image to begin with, or set denoise "
            "to 1"
        )
    return denoise if has_source else None
