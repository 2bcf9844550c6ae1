"""The part of an image that is painted over: what is cut out, and how the result goes back."""

import dataclasses
from typing import Self

import cv2
import numpy as np
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.images import ImageInput, read_image
from instantid_jax.request.request import Request

Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """An image that a request begins with, and the box of it that is sampled.

    Attributes:
      image: [H, W, 3] uint8, whole.
      mask: [H, W] uint8, 255 where it is painted over; None is everywhere.
      box: left, top, right and bottom, in pixels of the image.
      blur: over how many pixels inside the mask's edge the result fades in; None is 4 of 1024.
    """

    image: np.ndarray
    mask: np.ndarray | None
    box: Box
    blur: float | None = None

    @classmethod
    def of(cls, request: Request, size: tuple[int, int]) -> Self | None:
        """The view of a request that is sampled at `size`; None if it begins with noise alone.

        Raises:
          InputError: if the mask has another size than the image, or masks nothing.
        """
        if request.image is None:
            return None
        image = read_image(request.image)
        height, width = image.shape[:2]
        whole = (0, 0, width, height)
        if request.mask_image is None:
            return cls(image, None, whole)
        mask = read_mask(request.mask_image, (height, width))
        padding = request.padding_mask_crop
        box = whole if padding is None else crop_region(mask, size, padding)
        return cls(image, mask, box, request.mask_blur)

    def cut(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The box of an image or mask as large as this one, at (height, width)."""
        height, width = size
        cut = Image.fromarray(pixels).crop(self.box)
        if cut.size == (width, height):
            return np.asarray(cut)
        return np.asarray(cut.resize((width, height), Image.Resampling.LANCZOS))

    def sampling_mask(self, size: tuple[int, int]) -> np.ndarray | None:
        """How early each latent of the box is released: [H / 8, W / 8] float32, 1 at once.

        As diffusers' masks if this one is black and white: cut in two at the middle, and the
        nearest pixel's. Gray levels are those of differential diffusion.
        """
        if self.mask is None:
            return None
        levels = self.cut(self.mask, size)[::8, ::8].astype(np.float32) / 255
        hard = not np.any((self.mask > 0) & (self.mask < 255))
        return (levels >= 0.5).astype(np.float32) if hard else levels

    def masked(self, size: tuple[int, int]) -> np.ndarray:
        """The box without what is painted over, [H, W, 3] in [-1, 1], 0 there."""
        pixels = self.cut(self.image, size).astype(np.float32) / 127.5 - 1
        if self.mask is None:
            return np.zeros_like(pixels)
        return pixels * (self.cut(self.mask, size) < 127.5)[..., None]

    def place(self, face: Face, size: tuple[int, int]) -> np.ndarray:
        """A face's keypoints, which are where they are in the image, in pixels of the result."""
        left, top, right, bottom = self.box
        inside = face.kps_for(*self.image.shape[:2]) - np.array([left, top])
        height, width = size
        return inside * np.array([width / (right - left), height / (bottom - top)])

    def paste(self, made: np.ndarray) -> np.ndarray:
        """The result in its place, and around it the image, unchanged where the mask is 0.

        Args:
          made: [h, w, 3] uint8, or float32 in [0, 1].
        Returns:
          The same dtype; with a mask, as large as the image.
        """
        if self.mask is None:
            return made
        left, top, right, bottom = self.box
        floats = made.dtype != np.uint8
        pixels = np.round(made * 255).astype(np.uint8) if floats else made
        covered = self.image.copy()
        covered[top:bottom, left:right] = resized(pixels, (bottom - top, right - left))
        mixed = self.image + self._share()[..., None] * (covered.astype(np.float32) - self.image)
        if floats:
            return (mixed / 255).astype(np.float32)
        return np.round(mixed).astype(np.uint8)

    def _share(self) -> np.ndarray:
        """The result's share of each pixel, [H, W] float32; 0 where the mask is."""
        assert self.mask is not None
        blur = max(self.mask.shape) / 256 if self.blur is None else self.blur
        depth = cv2.distanceTransform((self.mask > 0).astype(np.uint8), cv2.DIST_L2, 5)
        return self.mask.astype(np.float32) / 255 * np.clip(depth / max(blur, 1), 0, 1)


def read_mask(mask: ImageInput, size: tuple[int, int]) -> np.ndarray:
    """A mask's brightness, [H, W] uint8.

    Args:
      mask: an image, or [H, W] uint8.
      size: (height, width) that it must have.
    Raises:
      InputError: if it has another size, or is black everywhere.
    """
    levels = brightness(mask)
    if levels.shape != size:
        raise InputError(
            f"mask_image has {levels.shape[1]} x {levels.shape[0]} pixels, image {size[1]} x "
            f"{size[0]}: give a mask of the image's size"
        )
    if not levels.any():
        raise InputError("mask_image is black everywhere: paint white what is to change")
    return levels


def brightness(mask: ImageInput) -> np.ndarray:
    """The brightness of an image, or of a mask [H, W]: [H, W] uint8."""
    if isinstance(mask, np.ndarray) and mask.ndim == 2:
        mask = np.stack([mask] * 3, axis=-1)
    return np.asarray(Image.fromarray(read_image(mask)).convert("L"))


def crop_region(mask: np.ndarray, size: tuple[int, int], padding: int) -> Box:
    """The box around a mask, with padding and the aspect ratio of `size` as far as it fits.

    Source: diffusers' VaeImageProcessor.get_crop_region.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom = max(rows[0] - padding, 0), min(rows[-1] + 1 + padding, height)
    left, right = max(columns[0] - padding, 0), min(columns[-1] + 1 + padding, width)
    wanted = size[1] / size[0]
    if (right - left) / (bottom - top) > wanted:
        top, bottom = _widened(top, bottom, int((right - left) / wanted), height)
    else:
        left, right = _widened(left, right, int((bottom - top) * wanted), width)
    return int(left), int(top), int(right), int(bottom)


def _widened(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """A range of a length around another, moved and cut to lie in [0, limit)."""
    missing = length - (end - start)
    start -= missing // 2
    end += missing - missing // 2
    if end >= limit:
        start, end = start - (end - limit), limit
    if start < 0:
        start, end = 0, end - start
    return start, min(end, limit)


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image or mask at (height, width), as diffusers resizes (Lanczos)."""
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
