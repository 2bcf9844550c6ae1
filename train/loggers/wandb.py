"""Logs to Weights & Biases."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from train.loggers.logger import Logged, Outcome, numbers
from train.loggers.run_id import store_id, stored_id
from train.runs.saving import PREEMPTED_STATUS

SERVICE = "wandb"
PROJECT = "instantid_jax"
STATUSES: Mapping[Outcome, int] = {"finished": 0, "preempted": PREEMPTED_STATUS, "failed": 1}


class WeightsAndBiases:
    """One W&B run for all processes of a training run.

    W&B's own step only counts calls and cannot go back, so charts have our `step` as their axis.
    Steps that are taken again after a resume are then points at the same place. Project, entity,
    mode and key are W&B's own environment variables and files.
    """

    def __init__(self, logged: Logged):
        run_id = stored_id(logged.run, SERVICE) or uuid.uuid4().hex
        # Before the run exists, so that no process ends between the two.
        store_id(logged.run, SERVICE, run_id)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=logged.run.path.absolute().name,
            id=run_id,
            resume="allow",
            dir=str(logged.run.path),
            config=dict(logged.settings),
            # Settings may have changed on resume.
            allow_val_change=True,
            # The progress bar is nothing to upload.
            settings=wandb.Settings(console="off", quiet=True),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def write(self, record: Mapping[str, Any]) -> None:
        self._run.log({**numbers(record), "step": record["step"]})

    def image(self, step: int, tag: str, png: Path) -> None:
        self._run.log({tag: wandb.Image(str(png)), "step": step})

    def end(self, outcome: Outcome) -> None:
        if outcome == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=STATUSES[outcome])
