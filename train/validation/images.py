"""Images generated during training, and their scores."""

import dataclasses
import functools
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from instantid_jax.components import Component, ModelSource
from instantid_jax.errors import InputError
from instantid_jax.image_files import save_image
from instantid_jax.params import Params, cast
from instantid_jax.pipeline import InstantIDPipeline
from instantid_jax.request import Request
from instantid_jax.runs.trained_lora import merged
from instantid_jax.stacks import unstack
from train.config import TrainConfig
from train.model import BaseModel
from train.networks import FROZEN, INSTANTID
from train.state import TrainState
from train.validation.judge import Judge
from train.validation.records import Example

logger = logging.getLogger(__name__)


class ValidationImages:
    """Samples images of records with a run's weights."""

    def __init__(
        self,
        config: TrainConfig,
        base: BaseModel,
        examples: Sequence[Example],
        judges: Sequence[Judge] = (),
    ):
        """Args:
        config: its `validation` must be set.
        examples: one for each image.
        judges: score the images.
        """
        self._judges = judges
        self._config = config.validation
        self._dtype = config.step.dtype
        self._base = base
        self._settings = self._config.settings
        self._recorded = dataclasses.asdict(config.validation)
        if config.distillation is not None:
            sampling = config.distillation.sampling
            self._settings = dataclasses.replace(self._settings, **sampling)
            self._recorded |= sampling
        self._examples = examples

    def save(
        self, path: Path, step: int, state: TrainState, frozen: Mapping[str, Params]
    ) -> dict[str, float]:
        """Writes a PNG with a row for each record: photo, keypoints, generated image.

        Samples with the moving average if there is one. All processes must call it. Each samples
        its share of the records on its first device; process 0 writes the file.

        Returns:
          The judges' numbers, the same in all processes. If sampling or a judge fails, a warning
          is logged, no file is written, and there are no numbers.
        """
        parts = self._weights(state.ema or state.params, frozen)
        if jax.process_count() > 1:
            parts = multihost_utils.process_allgather(parts, tiled=True)
        reason = None
        try:
            images, scores = self._sample(parts)
        except (InputError, jax.errors.JaxRuntimeError) as error:
            # Sampling may need more memory than training leaves free.
            if not isinstance(error, InputError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            images, scores = self._nothing()
        failed, images, scores = _gathered(reason is not None, images, scores)
        if failed.any():
            reason = reason or f"process {int(failed.argmax())} could not sample"
            logger.warning("no validation images at step %d: %s", step, reason)
            return {}
        count = len(self._examples)
        if jax.process_index() == 0:
            self._write(path, step, images[:count])
        return self._numbers(scores[:count])

    def _sample(self, parts: Mapping[str, Params]) -> tuple[np.ndarray, np.ndarray]:
        """This process's share of the images and scores, in the shapes of `_nothing`."""
        images, scores = self._nothing()
        pipe = InstantIDPipeline(self._model(parts), dtype=self._dtype, vae_dtype="float32")
        share = range(jax.process_index(), len(self._examples), jax.process_count())
        for i, number in enumerate(share):
            images[i] = self._generate(pipe, self._examples[number])
        columns = [judge.score(images[: len(share)], share) for judge in self._judges]
        if columns:
            scores[: len(share)] = np.concatenate(columns, axis=1)
        return images, scores

    def _numbers(self, scores: np.ndarray) -> dict[str, float]:
        """The judges' numbers of the scores of all images, [N, columns]."""
        numbers, start = {}, 0
        for judge in self._judges:
            numbers |= judge.summarized(scores[:, start : start + judge.columns])
            start += judge.columns
        return numbers

    def _nothing(self) -> tuple[np.ndarray, np.ndarray]:
        """Zeros for as many images as each process samples at most, and their scores."""
        count = -(-len(self._examples) // jax.process_count())
        images = np.zeros((count, *self._config.size, 3), np.uint8)
        columns = sum(judge.columns for judge in self._judges)
        return images, np.zeros((count, columns), np.float32)

    def _write(self, path: Path, step: int, images: np.ndarray) -> None:
        rows = [
            np.concatenate([example["images"], example["keypoint_images"], image], axis=1)
            for example, image in zip(self._examples, images, strict=True)
        ]
        settings = json.dumps(self._recorded | {"step": step})
        captions = " | ".join(example["caption"] for example in self._examples)
        save_image(np.concatenate(rows), path, text={"prompt": captions, "instantid": settings})

    def _weights(self, trained: Params, frozen: Mapping[str, Params]) -> dict[str, Params]:
        """The parameters of every component, stacked as in training."""
        networks = self._base.networks
        parts = {name: frozen[name] for name in networks.frozen}
        if networks.student is None:
            return parts | networks.instantid(frozen, cast(trained, jnp.dtype(self._dtype)))
        unet = jax.jit(merged, static_argnums=0)(networks.unet, frozen["unet"], trained)
        return parts | {"unet": unet}

    def _generate(self, pipe: InstantIDPipeline, example: Mapping[str, Any]) -> np.ndarray:
        # Training truncates captions, which sampling would encode in several chunks.
        caption = min((each.kept(example["caption"]) for each in self._base.tokenizers), key=len)
        request = Request(
            caption,
            image_embeds=example["id_embeds"],
            kps_image=example["keypoint_images"],
            **self._settings.values(),
        )
        return np.asarray(pipe.run([request]).images[0])

    def _model(self, parts: Mapping[str, Params]) -> ModelSource:
        """The run's weights as a model for the pipeline."""
        base = self._base
        components = {}
        for name in (*FROZEN, *INSTANTID):
            network = dataclasses.replace(base.networks.of(name), stacked=False)
            load = functools.partial(_in_memory, parts[name])
            components[name] = Component(network, base.settings.get(name, {}), load, "the run")
        return base.base.with_parts(components)


def _gathered(
    failed: bool, images: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which processes failed [P], and all images and scores in the order of the records."""
    mine = np.asarray(failed), images, scores
    if jax.process_count() == 1:
        return mine[0][None], images, scores
    failures, *shares = multihost_utils.process_allgather(mine)
    # Record i is process i % P's.
    images, scores = (each.swapaxes(0, 1).reshape(-1, *each.shape[2:]) for each in shares)
    return failures, images, scores


def _in_memory(
    params: Mapping[str, jax.Array],
    dtype: jnp.dtype | None,
    chosen: Collection[str] | None = None,
) -> Params:
    """Implements `Component.load` for parameters that are already in memory."""
    separate = unstack(params)
    return {
        name: jnp.asarray(separate[name], None if separate[name].dtype == dtype else dtype)
        for name in (separate if chosen is None else chosen)
    }
