"""ControlNets: their images, and how strongly each counts at each step."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.images import ImageInput, read_image
from instantid_jax.models.instantid import Masks
from instantid_jax.params import Network
from instantid_jax.pipeline.conditions.masks import resolve_masks
from instantid_jax.pipeline.conditions.view import View
from instantid_jax.request.request import Request
from instantid_jax.request.settings import Settings


@dataclasses.dataclass(frozen=True, eq=False)
class ControlInputs:
    """Inputs of the ControlNets for B requests.

    Attributes:
      images: for each ControlNet after IdentityNet [B, H, W, 3] uint8, black where it is off.
      scales: [T, ControlNets, residuals, rows] float32, what residuals are multiplied by; T is the
        largest number of steps. With guidance the negative rows come first.
      masks: where IdentityNet, the Image Adapter and the further ControlNets count.
    """

    images: tuple[np.ndarray, ...]
    scales: np.ndarray
    masks: Masks[np.ndarray]


def resolve_control(
    controlnets: Sequence[Network],
    requests: Sequence[Request],
    views: Sequence[View | None],
    steps: Sequence[int],
    size: tuple[int, int],
    guidance: bool,
) -> ControlInputs:
    """Reads the images, resized to (height, width), and computes the strengths.

    Args:
      requests: of equally many images each.
      views: the part of an image that each request changes.
      steps: number of steps of each request's sampler.
    Raises:
      InputError: for another number of images or strengths than there are ControlNets.
    """
    extra = len(controlnets) - 1
    given = [_per_net(request, "control_images", extra) for request in requests]
    black = np.zeros((*size, 3), np.uint8)
    images = tuple(
        np.stack([black if image is None else resize(image, size) for image in of_net])
        for of_net in zip(*given, strict=True)
    )
    nets = [network.config.residuals for network in controlnets]
    each = [
        residual_scales(request, nets, own, max(steps), guidance)
        for request, own in zip(requests, steps, strict=True)
    ]
    repeats = requests[0].num_images_per_prompt
    # [T, nets, residuals, halves, images]
    scales = np.stack(each, axis=-1)
    for j, row in enumerate(given):
        off = [1 + i for i, image in enumerate(row) if image is None]
        scales[:, off, ..., j] = 0
    scales = np.repeat(scales, repeats, axis=-1)
    painted = [
        (request.control_mask, *_per_net(request, "control_masks", extra)) for request in requests
    ]
    levels = len(controlnets[0].config.block_out_channels)
    masks = resolve_masks(painted, views, size, levels)
    return ControlInputs(images, scales.reshape(*scales.shape[:3], -1), masks)


def _per_net(request: Request, name: str, extra: int) -> Sequence[ImageInput | None]:
    """The image or mask of each ControlNet after IdentityNet."""
    given = getattr(request, name) or (None,) * extra
    if len(given) != extra:
        without = "is off" if name == "control_images" else "counts everywhere"
        raise InputError(
            f"{name} has {len(given)} entries, {extra} additional ControlNets are loaded: "
            f"give one for each, None where one {without}, or none at all"
        )
    return given


def residual_scales(
    settings: Settings, residuals: Sequence[int], own: int, steps: int, guidance: bool
) -> np.ndarray:
    """Computes the factors of each ControlNet's residuals at each step.

    A net counts at step i of T when start <= i/T and (i+1)/T <= end. In guess mode the scales rise
    from a tenth to one over the residuals, and the negative half gets none.

    Args:
      residuals: how many each net makes; they must agree.
      own: steps of the sampler, T; heun and pndm have more than `num_inference_steps`.
      steps: rows of the result; those after its own are zeros.
    Returns:
      [steps, nets, residuals, halves] float32; halves [negative, positive] with guidance.
    Source: diffusers' StableDiffusionXLControlNetPipeline.__call__, ControlNetModel.forward.
    """
    strengths, starts, ends = np.array(settings.windows(len(residuals))).T
    inside = inside_window(own, starts, ends)  # [own, nets]
    depth = np.logspace(-1, 0, residuals[0]) if settings.guess_mode else np.ones(residuals[0])
    halves = np.ones(2 if guidance else 1)
    if guidance and settings.guess_mode:
        halves[0] = 0
    scales = (inside * strengths)[:, :, None, None] * depth[:, None] * halves
    return np.pad(scales, [(0, steps - own), (0, 0), (0, 0), (0, 0)]).astype(np.float32)


def inside_window(steps: int, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether start <= i/T and (i+1)/T <= end at each step i of T: [steps, windows]."""
    i = np.arange(steps)[:, None]
    return (i / steps >= start) & ((i + 1) / steps <= end)


def resize(image: ImageInput, size: tuple[int, int]) -> np.ndarray:
    """An image for a ControlNet, [H, W, 3] uint8, resized as in diffusers (Lanczos)."""
    pixels = read_image(image)
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)
