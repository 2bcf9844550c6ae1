"""The canvas: the images' size, and SDXL's micro-conditioning on sizes."""

from collections.abc import Sequence

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.face.face import output_size
from instantid_jax.images import read_image
from instantid_jax.request.checks import check_side
from instantid_jax.request.request import Request
from instantid_jax.request.settings import Settings


def resolve_size(requests: Sequence[Request], long_side: int) -> tuple[int, int]:
    """Height and width of all images: as given, of another image, or by the photos' shape.

    Args:
      long_side: that the model was trained for, where only a photo's aspect ratio is known.
    Raises:
      InputError: if the requests need different sizes.
    """
    asked = [_size(request, long_side) for request in requests]
    sizes = {size for size in asked if size is not None}
    if len(sizes) > 1:
        each = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise InputError(f"a batch has one size, these ask for {each}: give height and width")
    return next(iter(sizes), (long_side, long_side))


def _size(request: Request, long_side: int) -> tuple[int, int] | None:
    if request.height is not None and request.width is not None:
        return request.height, request.width
    if request.image is not None:
        height, width = read_image(request.image).shape[:2]
        # As in diffusers, an image is sampled at its own size.
        return max(8, height // 8 * 8), max(8, width // 8 * 8)
    if request.kps_image is not None:
        height, width = read_image(request.kps_image).shape[:2]
        return check_side("height", height), check_side("width", width)
    if request.face is not None and request.face.image_size is not None:
        return output_size(request.face.image_size, long_side=long_side)
    return None


def resolve_time_ids(
    requests: Sequence[Request], size: tuple[int, int], guidance: bool
) -> np.ndarray:
    """SDXL's micro-conditioning: [B, 6] float32, with guidance [2B, 6], negatives first.

    Source: diffusers' StableDiffusionXLControlNetPipeline._get_add_time_ids.
    """
    positive = [_time_ids(request, size) for request in requests]
    negative = [_negative_time_ids(request, size) for request in requests]
    return np.array([*negative, *positive] if guidance else positive, np.float32)


def resolve_refiner_time_ids(
    requests: Sequence[Request], size: tuple[int, int], guidance: bool
) -> np.ndarray:
    """The same for the refiner: [B, 5] float32, with guidance [2B, 5], negatives first.

    Source: diffusers' StableDiffusionXLImg2ImgPipeline._get_add_time_ids and __call__.
    """
    positive = [
        (*(each.original_size or size), *each.crops_coords_top_left, each.aesthetic_score)
        for each in requests
    ]
    negative = [
        (
            *(each.negative_original_size or each.original_size or size),
            *each.negative_crops_coords_top_left,
            each.negative_aesthetic_score,
        )
        for each in requests
    ]
    return np.array([*negative, *positive] if guidance else positive, np.float32)


def _time_ids(settings: Settings, size: tuple[int, int]) -> tuple[int, ...]:
    return (
        *(settings.original_size or size),
        *settings.crops_coords_top_left,
        *(settings.target_size or size),
    )


def _negative_time_ids(settings: Settings, size: tuple[int, int]) -> tuple[int, ...]:
    original, target = settings.negative_original_size, settings.negative_target_size
    if original is None or target is None:
        return _time_ids(settings, size)
    return (*original, *settings.negative_crops_coords_top_left, *target)
