"""The LoRA of an earlier distillation: the teacher of the next, and where its student starts."""

import functools
import json
from pathlib import Path

import jax.numpy as jnp

from instantid_jax.components import Component
from instantid_jax.errors import InputError
from instantid_jax.params import Network, Params, mismatches
from instantid_jax.paths import utf8_path
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import newest_meta, restore_weights, stored_weights
from instantid_jax.runs.trained_lora import LORA, trains_lora
from train.distillation.config import DistillationConfig
from train.distillation.factors import Factors


def find_earlier(config: DistillationConfig, unet: Network) -> Component:
    """Finds the LoRA of `config.lora`, its moving average if there is one.

    Raises:
      InputError: if the folder is not a distillation's, or the LoRA has other shapes or was made
        for other steps than the teacher takes.
    """
    path = Path(config.lora)
    if not trains_lora(path):
        raise InputError(
            f"distillation.lora={path} is not the run of a distillation, or has no checkpoint: "
            "pass the folder that `python -m train.distill` trained in"
        )
    run, factors = RunFolder(utf8_path(path)), Factors(unet, config.rank)
    wanted, found = factors.shapes, stored_weights(run).shapes
    faults = mismatches(
        *({name: tuple(value.shape) for name, value in each.items()} for each in (wanted, found)),
        limit=1,
    )
    if faults:
        raise InputError(
            f"distillation.lora={path} does not fit rank {config.rank} of this UNet: it has "
            f"{'; '.join(faults)}; use its distillation.rank and base model"
        )
    steps = json.loads(newest_meta(run).fingerprint["distillation.steps"])
    if steps != config.steps * config.teacher_steps:
        raise InputError(
            f"distillation.lora={path} samples in {steps} steps, but it is to teach "
            f"steps={config.steps} with teacher_steps={config.teacher_steps}: expected two numbers "
            f"whose product is {steps}"
        )
    return Component(factors, {}, functools.partial(_load, run), str(path))


def _load(run: RunFolder, dtype: jnp.dtype) -> Params:
    params = restore_weights(run, prefix=LORA)
    return {name: value.astype(dtype) for name, value in params.items()}
