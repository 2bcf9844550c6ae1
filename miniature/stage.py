"""The training loop of the miniature's own networks: resumable, its batches a function of the step.

InstantID itself is trained by `python -m train`; this trains what that presupposes.
"""

import dataclasses
import functools
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
from jax.sharding import SingleDeviceSharding
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from instantid_jax.cache import keep_compiled_programs
from instantid_jax.errors import InputError
from instantid_jax.params import Params
from instantid_jax.runs.contents import Meta
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore
from train.optimizer import OptimizerConfig, learning_rate, make_optimizer, update_ema
from train.runs.json_lines import append_line, cut_metrics
from train.runs.lock import locked
from train.runs.saving import PREEMPTED_STATUS, Saver
from train.state import TrainState, init_state

logger = logging.getLogger(__name__)

Batch = Mapping[str, np.ndarray]
Loss = Callable[[Params, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """How long and how fast a network is trained.

    Attributes:
      steps: optimiser steps of the whole schedule, a warm-up and a cosine to zero.
      learning_rate: its peak.
      algorithm: the optimiser's, as `OptimizerConfig` has it.
      ema_decay: of the averaged copy, which is what the stage results in.
      save_every: steps between checkpoints.
    """

    steps: int
    learning_rate: float
    algorithm: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 1e-2
    ema_decay: float = 0.998
    warmup_steps: int = 100
    save_every: int = 200
    seed: int = 0

    def __post_init__(self):
        """Refuses what `train` cannot do before anything is drawn for it."""
        if self.steps <= self.warmup_steps:
            raise InputError(
                f"--stage.steps {self.steps}: expected more than the {self.warmup_steps} of "
                "--stage.warmup-steps"
            )
        if self.save_every < 1:
            raise InputError(f"--stage.save-every {self.save_every}: expected 1 up")
        _ = self.optimizer  # which checks the rest

    @property
    def identity(self) -> dict[str, Any]:
        """What a run that goes on must have in common with its beginning."""
        settings = dataclasses.asdict(self)
        del settings["save_every"]
        return settings

    @property
    def optimizer(self) -> OptimizerConfig:
        return OptimizerConfig(
            algorithm=self.algorithm,
            learning_rate=self.learning_rate,
            schedule="cosine",
            warmup_steps=self.warmup_steps,
            decay_steps=self.steps,
            weight_decay=self.weight_decay,
            ema_decay=self.ema_decay,
        )


def train(
    stage: Stage,
    folder: Path,
    init: Callable[[jax.Array], Params],
    loss: Loss,
    batch_at: Callable[[int], Batch],
    data: str,
) -> Params:
    """Trains, or goes on where an earlier call ended, and returns the averaged parameters.

    SIGTERM saves and exits with `PREEMPTED_STATUS`.

    Args:
      folder: the run's: checkpoints, and metrics.jsonl with a line every tenth step and for the
        last.
      init: makes parameters from a key.
      loss: a scalar, and further scalars to record, of parameters, a batch and the step's key.
      batch_at: the batch of a step.
      data: what batches are made of, in words; a run that goes on must have the same.
    Raises:
      InputError: if the loss is not finite, the folder's run is another, or it goes on just now.
    """
    keep_compiled_programs()
    run, optimizer = RunFolder(folder), stage.optimizer

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(stage.seed), state.step)
        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(
            state.params, batch, key
        )
        transform = make_optimizer(optimizer, state.params)
        updates, opt_state = transform.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = update_ema(stage.ema_decay, state.ema, params)
        metrics = metrics | {
            "loss": value,
            "grad_norm": optax.tree.norm(gradients),
            "learning_rate": learning_rate(optimizer)(state.step),
        }
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    with locked(run), logging_redirect_tqdm():
        fingerprint = {"stage": stage.identity, "data": data}
        start, state = _start(stage, run, init, fingerprint)
        began = time.monotonic()
        with (
            Saver(run, start=start, every=stage.save_every, keep=1) as saver,
            tqdm(total=stage.steps, initial=start, unit="step") as bar,
        ):
            for step in range(start + 1, stage.steps + 1):
                state, metrics = advance(state, batch_at(step - 1))
                bar.update()
                preempted = saver.reached_preemption(step)
                # Nothing is saved that was not looked at.
                last = step == stage.steps
                if step % 10 == 0 or step % stage.save_every == 0 or preempted or last:
                    told = {name: float(value) for name, value in metrics.items()}
                    seconds = round((time.monotonic() - began) / (step - start), 4)
                    append_line(run.metrics, {"step": step, **told, "seconds_a_step": seconds})
                    bar.set_postfix(
                        {n: f"{v:.3g}" for n, v in told.items() if n != "learning_rate"}
                    )
                    if not np.isfinite(told["loss"]):
                        raise InputError(
                            f"the loss at step {step} is {told['loss']}: lower "
                            "--stage.learning-rate"
                        )
                meta = Meta(fingerprint=fingerprint, seed=stage.seed, position=step)
                saver.save(step, state, meta, force=preempted or last)
                if preempted:
                    saver.wait()
                    sys.exit(PREEMPTED_STATUS)
    return jax.device_get(state.ema)


def _start(
    stage: Stage,
    run: RunFolder,
    init: Callable[[jax.Array], Params],
    fingerprint: Mapping[str, Any],
) -> tuple[int, TrainState]:
    """The step and the state of the folder's newest checkpoint, or fresh ones."""
    begin = jax.jit(lambda key: init_state(stage.optimizer, init(key)))
    key = jax.random.key(stage.seed)
    if run.steps():
        here = SingleDeviceSharding(jax.devices()[0])
        template = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            jax.eval_shape(begin, key),
        )
        start, state, _ = restore(run, template, fingerprint=fingerprint)
        logger.info("going on from step %d", start)
    else:
        start, state = 0, begin(key)
    cut_metrics(run, start)
    return start, state
