"""Sample images generated during training."""

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
from instantid_jax.params import Params, cast, split_parts
from instantid_jax.pipeline import InstantIDPipeline
from instantid_jax.request import Request
from train.config import TrainConfig
from train.distillation.factors import merged
from train.model import BaseModel
from train.objective import FROZEN, INSTANTID
from train.state import TrainState
from train.validation.records import Example

logger = logging.getLogger(__name__)


class ValidationImages:
    """Samples images of records with a run's weights."""

    def __init__(self, config: TrainConfig, base: BaseModel, examples: Sequence[Example]):
        """Args:
        config: its `validation` must be set.
        examples: one for each image.
        """
        self._config = config.validation
        self._dtype = config.step.dtype
        self._base = base
        self._settings = self._config.settings
        if config.distillation is not None:
            self._settings = dataclasses.replace(
                self._settings,
                scheduler="euler_trailing",
                num_inference_steps=config.distillation.steps,
                guidance_scale=1.0,
            )
        self._examples = examples

    def save(self, path: Path, step: int, state: TrainState, frozen: Mapping[str, Params]) -> bool:
        """Writes a PNG with a row for each record: photo, keypoints, generated image.

        Samples with the moving average if there is one. All processes must call it; process 0
        samples, on its first device.

        Returns:
          Whether this process wrote the file.
        """
        parts = self._weights(state.ema or state.params, frozen)
        if jax.process_count() > 1:
            parts = multihost_utils.process_allgather(parts, tiled=True)
            if jax.process_index() != 0:
                return False
        try:
            pipe = InstantIDPipeline(self._model(parts), dtype=self._dtype, vae_dtype="float32")
            made = [self._generate(pipe, example) for example in self._examples]
        except (InputError, jax.errors.JaxRuntimeError) as error:
            # Sampling may need more memory than training leaves free.
            if isinstance(error, InputError) or "RESOURCE_EXHAUSTED" in str(error):
                reason = str(error).splitlines()[0]
                logger.warning("no validation images at step %d: %s", step, reason)
                return False
            raise
        rows = [
            np.concatenate([example["images"], example["keypoint_images"], image], axis=1)
            for example, image in zip(self._examples, made, strict=True)
        ]
        settings = json.dumps(dataclasses.asdict(self._config) | {"step": step})
        captions = " | ".join(example["caption"] for example in self._examples)
        save_image(np.concatenate(rows), path, text={"prompt": captions, "instantid": settings})
        return True

    def _weights(self, trained: Params, frozen: Mapping[str, Params]) -> dict[str, Params]:
        """The parameters of every component."""
        networks = self._base.networks
        parts = {name: frozen[name] for name in networks.frozen}
        if networks.student is None:
            return parts | split_parts(cast(trained, jnp.dtype(self._dtype)))
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
            network, load = base.networks.of(name), functools.partial(_in_memory, parts[name])
            components[name] = Component(network, base.settings.get(name, {}), load, "the run")
        return base.base.with_parts(components)


def _in_memory(
    params: Mapping[str, jax.Array],
    dtype: jnp.dtype | None,
    chosen: Collection[str] | None = None,
) -> Params:
    """Implements `Component.load` for parameters that are already in memory."""
    return {
        name: jnp.asarray(params[name], None if params[name].dtype == dtype else dtype)
        for name in (params if chosen is None else chosen)
    }
