"""Reads the records that a run is validated on."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.params import Network
from instantid_jax.prompt import PromptTokenizer
from train.config import TrainConfig
from train.data.config import DatasetShare
from train.data.examples import Choices, make_example
from train.data.reading import FaceDataset
from train.data.record import CorruptRecord

# The arrays of an example that the losses take, besides the tokens of its caption.
ARRAYS = ("images", "keypoint_images", "id_embeds", "time_ids", "kps", "face_box")

Example = dict[str, Any]


class ValidationRecords:
    """Examples of a dataset's first usable records, center-cropped, for images and for losses.

    Caption sources and ID embeddings are chosen as in training.

    Attributes:
      shown: the examples of which images are made.
      measured: arrays [L, ...] of those whose losses are taken, as in a batch of `train.data`;
        empty without.
      recognizer: SHA-256 of the recognizer that measured the faces; None if it is not known.
    """

    def __init__(
        self, config: TrainConfig, tokenizers: Sequence[PromptTokenizer], resampler: Network
    ):
        """Reads the records.

        Raises:
          InputError: if there are too few, or they do not fit the model.
        """
        validation = config.validation
        dataset = FaceDataset(validation.dataset)
        self.recognizer = dataset.recognizer
        examples = _first_examples(config, dataset)
        if len(examples) < validation.records:
            raise InputError(
                f"{validation.dataset} has {len(examples)} usable records, but validation needs "
                f"{validation.records}: lower validation.records or use a larger dataset"
            )
        found, wanted = dataset.embedding_size, resampler.config.embedding_dim
        if found != wanted:
            raise InputError(
                f"{validation.dataset} has embeddings of size {found}, but the Resampler "
                f"expects {wanted}: use a dataset prepared with the model's face pack"
            )
        self.shown = examples[: validation.records]
        self.measured = _arrays(examples[: validation.loss_records], tokenizers)


def _first_examples(config: TrainConfig, dataset: FaceDataset) -> list[Example]:
    """As many as the images and the losses need, or all that there are."""
    validation = config.validation
    data = dataclasses.replace(
        config.data,
        datasets=(DatasetShare(folder=validation.dataset),),
        buckets=(validation.size,),
        crop="center",
        cached_latents=False,
    )
    examples = []
    for row in range(len(dataset)):
        if len(examples) == max(validation.records, validation.loss_records):
            break
        try:
            examples.append(make_example(dataset[row], validation.size, data, Choices(0, row)))
        except CorruptRecord:
            continue
    return examples


def _arrays(examples: Sequence[Example], tokenizers: Sequence[PromptTokenizer]) -> Example:
    if not examples:
        return {}
    arrays = {name: np.stack([example[name] for example in examples]) for name in ARRAYS}
    captions = [example["caption"] for example in examples]
    for name, tokenizer in zip(("input_ids", "input_ids_2"), tokenizers, strict=True):
        arrays[name] = tokenizer(captions)
    return arrays
