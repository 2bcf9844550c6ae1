"""Turns a record into a training example: random choices, crop and arrays."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.face.keypoints import draw_keypoints
from train.data.buckets import Size
from train.data.config import DataConfig
from train.data.crop import choose_crop
from train.data.faces import face_share
from train.data.latent_cache import EncodedImage
from train.data.record import CorruptRecord, Record


class Choices:
    """The random choices of one example, a function of the seed and its global index.

    All are always drawn, in a fixed order, so that no setting affects another choice.
    """

    def __init__(self, seed: int, example_index: int):
        draws = np.random.default_rng([seed, example_index]).random(5)
        self.top, self.left, self.caption, self.use_reference, self.reference = map(float, draws)


def make_example(
    record: Record,
    target: Size,
    config: DataConfig,
    choices: Choices,
    encoded: EncodedImage | None = None,
) -> dict[str, Any]:
    """Makes an example of arrays; the caption is not tokenized yet.

    Args:
      encoded: the crop from the latent cache; its moments replace the pixels, which are not
        decoded then.
    Raises:
      CorruptRecord: if the image cannot be decoded, or the keypoints cannot be drawn.
    """
    source = record.size()
    face = np.concatenate([record.kps, record.bbox.reshape(2, 2)])
    crop = choose_crop(source, target, face, config.crop, (choices.top, choices.left))
    kps = crop.points(record.kps)
    try:
        keypoint_image = draw_keypoints(*target, kps)
    except InputError as error:
        raise CorruptRecord(str(error)) from error
    box = crop.box(record.bbox)
    if encoded is None:
        pixels = crop.pixels(record.pixels(crop.reduction))
        crc32 = np.uint32(zlib.crc32(np.ascontiguousarray(pixels)))
        image = {"images": pixels, "pixels_crc32": crc32}
    else:
        image = {"latent_moments": encoded.moments, "pixels_crc32": encoded.crc32}
    return {
        **image,
        "keypoint_images": keypoint_image,
        "caption": choose_caption(record.captions, config, choices.caption),
        "id_embeds": choose_embedding(record, config, choices),
        "time_ids": np.array([*record.original_size, crop.top, crop.left, *target], np.float32),
        "kps": kps,
        "face_box": box,
        "face_share": np.float32(face_share(box, target)),
        "key": record.key,
    }


def choose_caption(captions: Mapping[str, str], config: DataConfig, draw: float) -> str:
    """Draws one of a record's captions by the sources' weights; empty if no source applies.

    Args:
      draw: uniform in [0, 1).
    """
    # Sorted, so that the order of a record's captions does not matter.
    weights = {source: 1.0 for source in sorted(captions)}
    if config.captions:
        weights = {share.source: share.weight for share in config.captions}
        weights = {source: weight for source, weight in weights.items() if source in captions}
    if not weights:
        return ""
    bounds = np.cumsum(list(weights.values()))
    place = int(np.searchsorted(bounds, draw * bounds[-1], side="right"))
    return captions[list(weights)[min(place, len(weights) - 1)]]


def choose_embedding(record: Record, config: DataConfig, choices: Choices) -> np.ndarray:
    """The image's own embedding [E] or, with `reference_probability`, another photo's."""
    references = record.reference_embeddings
    if len(references) and choices.use_reference < config.reference_probability:
        return references[int(choices.reference * len(references))]
    return record.embedding
