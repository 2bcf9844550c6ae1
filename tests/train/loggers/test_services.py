"""Weights & Biases and MLflow, against stand-ins that record the calls."""

import importlib
import math
import sys

import pytest

from instantid_jax.runs.folder import RunFolder
from tests.train.loggers import stand_ins
from train.loggers.logger import Logged

RECORD = {"step": 3, "loss": 0.5, "grad_norm": math.nan, "finite": True, "examples_crc32": 7}
SETTINGS = {"steps": 10, "optimizer": {"learning_rate": 1e-3}}


@pytest.fixture
def logger_class(monkeypatch):
    """Imports a module of `train.loggers` with stand-ins for what it imports."""

    def load(name, modules):
        for each, module in modules.items():
            monkeypatch.setitem(sys.modules, each, module)
        monkeypatch.delitem(sys.modules, f"train.loggers.{name}", raising=False)
        module = importlib.import_module(f"train.loggers.{name}")
        monkeypatch.delitem(sys.modules, f"train.loggers.{name}")
        return module

    return load


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "portraits")
    run.path.mkdir()
    return run


@pytest.fixture
def wandb_calls():
    return []


@pytest.fixture
def weights_and_biases(logger_class, wandb_calls):
    modules = {"wandb": stand_ins.wandb_module(wandb_calls)}
    return logger_class("wandb", modules).WeightsAndBiases


def test_wandb_gets_name_settings_numbers_and_images(weights_and_biases, wandb_calls, run):
    logger = weights_and_biases(Logged(run, 0, SETTINGS))
    logger.write(RECORD)
    logger.image(3, "validation", run.samples / "3.png")
    logger.end("finished")
    (_, given), *defined = wandb_calls[:3]
    assert (given["name"], given["config"]) == ("portraits", SETTINGS)
    assert ("define_metric", "*", "step") in defined
    assert wandb_calls[3:] == [
        ("log", {"loss": 0.5, "step": 3}),
        ("log", {"validation": ("image", f"{run.samples}/3.png"), "step": 3}),
        ("finish", 0),
    ]


def test_wandb_resumes_the_same_run(weights_and_biases, wandb_calls, run):
    for start in (0, 3):
        weights_and_biases(Logged(run, start, SETTINGS))
    first, second = (call[1] for call in wandb_calls if call[0] == "init")
    assert first["id"] == second["id"] and first["resume"] == "allow"


@pytest.mark.parametrize(
    ("outcome", "calls"),
    [("preempted", [("mark_preempting",), ("finish", 75)]), ("failed", [("finish", 1)])],
)
def test_wandb_learns_how_the_run_ends(weights_and_biases, wandb_calls, run, outcome, calls):
    weights_and_biases(Logged(run, 0, {})).end(outcome)
    assert wandb_calls[3:] == calls


@pytest.fixture
def store():
    return {}


@pytest.fixture
def mlflow(logger_class, store):
    return logger_class("mlflow", stand_ins.mlflow_modules(store)).MLflow


def test_mlflow_gets_name_settings_numbers_and_images(mlflow, store, run):
    logger = mlflow(Logged(run, 0, SETTINGS))
    logger.write(RECORD)
    logger.image(3, "validation", run.samples / "3.png")
    logger.end("finished")
    assert store == {
        "run0": [
            ("create_run", "portraits"),
            ("log_dict", SETTINGS, "config.json"),
            ("log_batch", [("loss", 0.5, 3)]),
            ("log_artifact", f"{run.samples}/3.png", "validation"),
            ("set_terminated", "FINISHED"),
        ]
    }


def test_mlflow_resumes_the_same_run(mlflow, store, run):
    mlflow(Logged(run, 0, SETTINGS)).end("preempted")
    mlflow(Logged(run, 3, SETTINGS)).end("failed")
    (calls,) = store.values()
    assert [call[1] for call in calls if call[0] != "log_dict"] == [
        "portraits",
        "KILLED",
        "RUNNING",
        "FAILED",
    ]


def test_mlflow_starts_a_new_run_in_another_store(mlflow, store, run):
    mlflow(Logged(run, 0, {}))
    store.clear()
    mlflow(Logged(run, 0, {}))
    assert store["run0"][0] == ("create_run", "portraits")
