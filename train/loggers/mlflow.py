"""Logs to MLflow."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from train.loggers.logger import Logged, Outcome, numbers
from train.loggers.run_id import store_id, stored_id

SERVICE = "mlflow"
EXPERIMENT = "instantid_jax"
STATUSES: Mapping[Outcome, str] = {
    "finished": "FINISHED",
    "preempted": "KILLED",
    "failed": "FAILED",
}


class MLflow:
    """One MLflow run for all processes of a training run.

    The configuration is the artifact `config.json`, written again on resume, because MLflow's
    parameters can never change. Steps that are taken again after a resume are logged again, at
    the same step. The store is the one of MLflow's own environment variables.
    """

    def __init__(self, logged: Logged):
        self._client = MlflowClient()
        self._id = self._resumed(logged) or self._created(logged)
        self._client.log_dict(self._id, dict(logged.settings), "config.json")

    def _resumed(self, logged: Logged) -> str | None:
        run_id = stored_id(logged.run, SERVICE)
        if run_id is None:
            return None
        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            # The store is another one than before.
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run_id

    def _created(self, logged: Logged) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        place = (
            self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        )
        run = self._client.create_run(place, run_name=logged.run.path.absolute().name)
        store_id(logged.run, SERVICE, run.info.run_id)
        return run.info.run_id

    def write(self, record: Mapping[str, Any]) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(name, v, now, record["step"]) for name, v in numbers(record).items()]
        self._client.log_batch(self._id, metrics=metrics)

    def image(self, step: int, tag: str, png: Path) -> None:
        self._client.log_artifact(self._id, str(png), tag)

    def end(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._id, status=STATUSES[outcome])
