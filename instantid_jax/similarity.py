"""How well images match texts, by CLIP (Radford et al. 2021)."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.params import Network, Params
from instantid_jax.prompt import PromptTokenizer
from instantid_jax.weights.clip import PREPROCESSING, find_clip

# Images that are embedded at a time, so that memory does not grow with their number.
IMAGES_AT_A_TIME = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resizing, cropping and normalization, as in transformers' `CLIPImageProcessor`.

    Attributes:
      size: pixels of an image's shorter side after resizing.
      crop: (height, width) of the central crop.
      mean, std: each channel's, for pixels from 0 to 1.
    """

    size: int
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Reads a `preprocessor_config.json`.

        Raises:
          InputError: if it describes something else.
        """
        only = {
            "resample": Image.Resampling.BICUBIC.value,
            "rescale_factor": 1 / 255,
            **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), True),
        }
        for name, supported in only.items():
            if settings.get(name, supported) != supported:
                raise InputError(
                    f"{PREPROCESSING}: {name}={settings[name]} is not supported, expected "
                    f"{supported}"
                )
        # Old files have one number, of the shorter side and of both sides.
        size = _sides(settings.get("size"), ("shortest_edge",))
        crop = _sides(settings.get("crop_size"), ("height", "width"))
        mean, std = settings.get("image_mean"), settings.get("image_std")
        if size is None or crop is None or not (mean and std):
            raise InputError(
                f"{PREPROCESSING}: expected size, crop_size, image_mean and image_std of a CLIP "
                "model, with a shortest_edge"
            )
        return cls(size=size[0], crop=(crop[0], crop[1]), mean=tuple(mean), std=tuple(std))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Prepares one image: uint8 [H, W, 3] RGB to float32 [*crop, 3]."""
        height, width = image.shape[:2]
        short = min(height, width)
        target = [int(self.size * side / short) for side in (width, height)]
        resized = Image.fromarray(image).resize(target, Image.Resampling.BICUBIC)
        # Pixels beyond the image are black.
        left, top = ((side - own) // 2 for side, own in zip(target, self.crop[::-1], strict=True))
        box = (left, top, left + self.crop[1], top + self.crop[0])
        pixels = np.asarray(resized.crop(box), np.float32) / 255
        return (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


def _sides(value: Any, names: tuple[str, ...]) -> list[int] | None:
    """The named sides of a size, or the one number for each; None if it has others."""
    found = [value.get(n) for n in names] if isinstance(value, Mapping) else [value] * len(names)
    sides = [side for side in found if isinstance(side, int)]
    return sides if len(sides) == len(names) else None


class ClipSimilarity:
    """Embeds images and texts, so that the cosine of two embeddings says how well they match.

    Weights are on the devices only during a call.
    """

    def __init__(self, source: str):
        """Reads a CLIP model.

        Args:
          source: folder or hub id of a transformers `CLIPModel`.
        Raises:
          InputError: if it cannot be read, or is something else.
        """
        found = find_clip(source)
        self._preprocessing = Preprocessing.from_json(found.preprocessing)
        config = found.vision.network.config
        if self._preprocessing.crop != (config.image_size, config.image_size):
            raise InputError(
                f"{source}: its {PREPROCESSING} crops to {self._preprocessing.crop}, but the image "
                f"encoder takes {config.image_size} x {config.image_size}: use the model's own file"
            )
        text = found.text.network.config
        self._tokenizer = PromptTokenizer(
            found.tokenizer, positions=text.max_position_embeddings, vocabulary=text.vocab_size
        )
        self._text, self._vision = found.text, found.vision
        self._weights: Params | None = None

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D] float32 of length 1; long texts are truncated."""
        params = self._text.load(jnp.float32)
        ids = self._tokenizer(texts)
        return _unit(np.asarray(_text_features(self._text.network, params, ids)))

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """[N, D] float32 of length 1, of uint8 [H, W, 3] RGB images."""
        if self._weights is None:
            self._weights = jax.device_get(self._vision.load(jnp.float32))
        params = jax.device_put(self._weights)
        count = min(IMAGES_AT_A_TIME, len(images))
        parts = []
        for start in range(0, len(images), count or 1):
            pixels = np.stack([self._preprocessing(each) for each in images[start : start + count]])
            # One shape is compiled.
            padded = np.pad(pixels, ((0, count - len(pixels)), (0, 0), (0, 0), (0, 0)))
            features = _image_features(self._vision.network, params, padded)
            parts.append(np.asarray(features)[: len(pixels)])
        width = self._vision.network.config.projection_dim
        return _unit(np.concatenate(parts) if parts else np.zeros((0, width), np.float32))


@functools.partial(jax.jit, static_argnums=0)
def _text_features(network: Network, params: Params, ids: jax.Array) -> jax.Array:
    return network.bind(params)(ids).pooled


@functools.partial(jax.jit, static_argnums=0)
def _image_features(network: Network, params: Params, pixels: jax.Array) -> jax.Array:
    return network.bind(params)(pixels)


def _unit(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise InputError("the CLIP model returns numbers that are not finite: use another")
    return features / np.maximum(lengths, np.finfo(np.float32).tiny)
