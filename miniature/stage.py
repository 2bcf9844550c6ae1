"""A resumable training loop, whose batches are a function of the step.

Trains the miniature's base model, face pack and classifier; `python -m train` trains InstantID.
"""

import dataclasses
import functools
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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
from instantid_jax.runs.restoring import newest_meta, restore
from train.optimizer import OptimizerConfig, learning_rate, make_optimizer, update_ema
from train.runs.json_lines import append_event, append_line, cut_metrics
from train.runs.lock import locked
from train.runs.saving import PREEMPTED_STATUS, Saver
from train.state import TrainState, init_state

logger = logging.getLogger(__name__)

Batch = Mapping[str, np.ndarray]
Loss = Callable[[Params, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """Schedule and optimizer of a training.

    Attributes:
      steps: optimizer steps, with a warm-up and a cosine decay to zero. With more of them, an
        existing run is prolonged: a warm restart to a third of the peak, decaying to zero again.
      learning_rate: the peak learning rate.
      algorithm: the optimizer, as in `OptimizerConfig`.
      ema_decay: decay of the averaged parameters, the result of the training.
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
        """Rejects invalid settings before anything is drawn."""
        if self.steps <= self.warmup_steps:
            raise InputError(
                f"--stage.steps {self.steps}: expected more than the {self.warmup_steps} of "
                "--stage.warmup-steps"
            )
        if self.save_every < 1:
            raise InputError(f"--stage.save-every {self.save_every}: expected 1 or more")
        _ = self.optimizer  # validates the rest

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must not change; its `steps` may only increase."""
        settings = dataclasses.asdict(self)
        del settings["save_every"], settings["steps"]
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
    """Trains, resuming an earlier call, and returns the averaged parameters.

    SIGTERM saves and exits with `PREEMPTED_STATUS`.

    Args:
      folder: the run's folder, for checkpoints and metrics.jsonl, which has a line for every tenth
        step and the last.
      init: creates parameters from a key.
      loss: (parameters, batch, key) to a scalar loss and a dict of scalars to log.
      batch_at: returns the batch of a step.
      data: describes the training data; a resumed run must have the same.
    Raises:
      InputError: if the loss is not finite, or the folder's run has other settings or is in use.
    """
    keep_compiled_programs()
    run = RunFolder(folder)
    with locked(run), logging_redirect_tqdm():
        start, state, ends = _start(stage, run, init, data)
        fingerprint = _fingerprint(stage, ends, data)
        advance = _advance(stage, ends, loss)
        start_time = time.monotonic()
        with (
            Saver(run, start=start, every=stage.save_every, keep=1) as saver,
            tqdm(total=stage.steps, initial=start, unit="step") as bar,
        ):
            for step in range(start + 1, stage.steps + 1):
                state, metrics = advance(state, batch_at(step - 1))
                bar.update()
                preempted = saver.reached_preemption(step)
                # Check the loss before each save.
                last = step == stage.steps
                if step % 10 == 0 or step % stage.save_every == 0 or preempted or last:
                    values = {name: float(value) for name, value in metrics.items()}
                    seconds = round((time.monotonic() - start_time) / (step - start), 4)
                    append_line(run.metrics, {"step": step, **values, "seconds_a_step": seconds})
                    bar.set_postfix(
                        {n: f"{v:.3g}" for n, v in values.items() if n != "learning_rate"}
                    )
                    if not np.isfinite(values["loss"]):
                        raise InputError(
                            f"the loss at step {step} is {values['loss']}: lower "
                            "--stage.learning-rate"
                        )
                meta = Meta(fingerprint=fingerprint, seed=stage.seed, position=step)
                saver.save(step, state, meta, force=preempted or last)
                if preempted:
                    saver.wait()
                    sys.exit(PREEMPTED_STATUS)
    return jax.device_get(state.ema)


def _advance(
    stage: Stage, ends: Sequence[int], loss: Loss
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled step, from state and batch to the next state and metrics."""
    optimizer = dataclasses.replace(stage.optimizer, restarts=tuple(ends[:-1]))

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

    return advance


def _start(
    stage: Stage, run: RunFolder, init: Callable[[jax.Array], Params], data: str
) -> tuple[int, TrainState, list[int]]:
    """Step and state of the newest checkpoint, or initial ones, and the ends of the decays."""
    make_state = jax.jit(lambda key: init_state(stage.optimizer, init(key)))
    key = jax.random.key(stage.seed)
    if not run.steps():
        cut_metrics(run, 0)
        return 0, make_state(key), [stage.steps]
    sharding = SingleDeviceSharding(jax.devices()[0])
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(make_state, key),
    )
    saved: Mapping[str, Any] = newest_meta(run).fingerprint
    steps = saved.get("stage", {}).get("steps")
    start, state, _ = restore(
        run, template, fingerprint=_fingerprint(stage, steps, data), ignore_fingerprint=None
    )
    # Runs from before they could be prolonged have a plain number.
    ends = [steps] if isinstance(steps, int) else list(steps)
    logger.info("resuming from step %d", start)
    if stage.steps < ends[-1]:
        raise InputError(
            f"--stage.steps {stage.steps}: {run.path} is at step {start} of {ends[-1]}: "
            f"expected {ends[-1]}, or more to prolong the run"
        )
    if stage.steps > ends[-1]:
        ends.append(stage.steps)
        append_event(run, "prolonged", step=start, ends=ends)
        logger.info("prolonging the run from %d to %d steps, with a warm restart", *ends[-2:])
    cut_metrics(run, start)
    return start, state, ends


def _fingerprint(stage: Stage, steps: Any, data: str) -> dict[str, Any]:
    """Identifies a run.

    Args:
      steps: ends of the decays of the learning rate, ascending; the last is the end of the run.
    """
    return {"stage": stage.identity | {"steps": steps}, "data": data}
