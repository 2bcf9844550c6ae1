"""Masks: where in an image ControlNets and the Image Adapter count."""

from collections.abc import Sequence

import cv2
import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.images import ImageInput
from instantid_jax.models.instantid import Masks
from instantid_jax.pipeline.conditions.view import View, brightness, resized


def resolve_masks(
    painted: Sequence[Sequence[ImageInput | None]],
    views: Sequence[View | None],
    size: tuple[int, int],
    levels: int,
) -> Masks[np.ndarray]:
    """Reads masks and samples them at every level of the networks, [B, H, W] float32.

    As in the official pipeline, residuals get the mask bilinearly, and attention the nearest pixel.
    Where the sides of a feature map are rounded up, masks have its size; there the official one
    ends with an error.

    Args:
      painted: for each of B requests a mask for each ControlNet, IdentityNet's first, which is the
        Image Adapter's too; None is everywhere.
      views: the part of an image that each request changes; masks lie in the whole image.
      size: (height, width) of the images.
      levels: how many resolutions the networks have.
    Raises:
      InputError: for a mask that cannot be read, or is black everywhere.
    Source: InstantID's StableDiffusionXLInstantIDPipeline (full), control_mask.
    """
    nets = [
        np.stack([_read(mask, i, view, size) for mask, view in zip(of_net, views, strict=True)])
        for i, of_net in enumerate(zip(*painted, strict=True))
    ]
    sides = [(size[0] // 8, size[1] // 8)]
    for _ in range(levels - 1):
        sides.append((-(-sides[-1][0] // 2), -(-sides[-1][1] // 2)))
    return Masks(
        adapter=tuple(_sampled(nets[0], side, cv2.INTER_NEAREST) for side in sides),
        controlnets=tuple(
            tuple(_sampled(net, side, cv2.INTER_LINEAR) for side in sides) for net in nets
        ),
    )


def _read(
    mask: ImageInput | None, net: int, view: View | None, size: tuple[int, int]
) -> np.ndarray:
    """[H, W] float32 in [0, 1], of an image or of the part of it that is sampled."""
    if mask is None:
        return np.ones(size, np.float32)
    levels = brightness(mask)
    if not levels.any():
        name = f"control_masks[{net - 1}]" if net else "control_mask"
        raise InputError(
            f"{name} is black everywhere: paint white where it counts, or set the strength to 0"
        )
    if view is None:
        levels = resized(levels, size)
    else:
        levels = view.cut(resized(levels, view.image.shape[:2]), size)
    return levels.astype(np.float32) / 255


def _sampled(masks: np.ndarray, side: tuple[int, int], how: int) -> np.ndarray:
    """Masks [B, H, W] at (height, width)."""
    height, width = side
    return np.stack([cv2.resize(mask, (width, height), interpolation=how) for mask in masks])
