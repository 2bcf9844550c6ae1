"""The image to begin with, and what of it is painted over."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.serving.page.uploads import read_upload

Change = Literal["everything", "what is painted over", "all but what is painted over", "the face"]
CHANGES: tuple[Change, ...] = get_args(Change)
# How much larger than its box a face's mask is: hair and chin belong to it.
GROW = 1.4


def has_image(painted: Mapping[str, Any] | None) -> bool:
    """Whether an editor holds an image; an empty canvas is none."""
    return bool(painted) and painted["background"] is not None


def read_painted(painted: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The image and the mask of an editor.

    Args:
      painted: files of the background and of the layers.
    Returns:
      [H, W, 3] and [H, W], both uint8; the mask is 255 where a layer was painted on.
    Raises:
      InputError: if a file cannot be read.
    """
    image = read_upload(painted["background"])
    mask = np.zeros(image.shape[:2], np.uint8)
    for layer in painted["layers"]:
        read_upload(layer)  # Its checks.
        with Image.open(layer) as opened:
            alpha = opened.convert("RGBA").getchannel("A")
        mask = np.maximum(mask, np.asarray(alpha.resize((image.shape[1], image.shape[0]))))
    # Brushes have soft edges; `mask_blur` is the setting for those.
    return image, np.where(mask > 127, 255, 0).astype(np.uint8)


def mask_of(change: str, mask: np.ndarray, face: Face | None) -> np.ndarray | None:
    """The mask for a choice of `CHANGES`: white is painted over; None is everything.

    Args:
      mask: that was painted.
      face: found in the image, for "the face".
    Raises:
      InputError: if nothing is painted where it is needed, or all, and for an unknown choice.
    """
    everything, painted, others, the_face = CHANGES
    if change == everything:
        return None
    if change == the_face:
        assert face is not None, "the face was not looked for"
        return face.mask(GROW)
    if change not in (painted, others):
        raise InputError(f"change={change!r}: expected one of {', '.join(CHANGES)}")
    if not mask.any() or (change == others and mask.all()):
        raise InputError(
            "nothing is painted over in the image to begin with: paint on it with the brush, or "
            f'choose to change "{everything}"'
        )
    return mask if change == painted else 255 - mask
