"""The miniature's training loop: it learns, and resumes bit-identically."""

import dataclasses
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.runs.folder import RunFolder
from miniature.evaluation import classifier
from miniature.stage import Stage, train

STAGE = Stage(steps=60, learning_rate=0.2, warmup_steps=2, ema_decay=0.5, save_every=10)
WANTED = np.linspace(-1, 1, 8).astype(np.float32)


def batch_at(step):
    x = np.random.default_rng([1, step]).standard_normal((16, 8)).astype(np.float32)
    return {"x": x, "y": x @ WANTED}


def init(key):
    return {"kernel": jnp.zeros(8)}


def loss(params, batch, key):
    error = batch["x"] @ params["kernel"] - batch["y"]
    return jnp.mean(jnp.square(error)), {"worst": jnp.abs(error).max()}


def lines(folder):
    return [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]


def test_learns_and_logs_metrics(tmp_path):
    params = train(STAGE, tmp_path, init, loss, batch_at, "numbers")
    np.testing.assert_allclose(params["kernel"], WANTED, atol=0.05)
    rows = lines(tmp_path)
    assert [line["step"] for line in rows] == [10, 20, 30, 40, 50, 60]
    assert rows[-1]["loss"] < 0.01 * rows[0]["loss"]
    assert {"worst", "grad_norm", "learning_rate"} <= rows[0].keys()


@pytest.mark.slow
def test_resuming_is_bit_identical(tmp_path):
    def interrupted(step):
        if step == 25:
            raise KeyboardInterrupt
        return batch_at(step)

    uninterrupted = train(STAGE, tmp_path / "a", init, loss, batch_at, "numbers")
    with pytest.raises(KeyboardInterrupt):
        train(STAGE, tmp_path / "b", init, loss, interrupted, "numbers")
    assert RunFolder(tmp_path / "b").steps() == [20]
    resumed = train(STAGE, tmp_path / "b", init, loss, batch_at, "numbers")
    assert resumed["kernel"].tobytes() == uninterrupted["kernel"].tobytes()
    for one, other in zip(lines(tmp_path / "a"), lines(tmp_path / "b"), strict=True):
        assert one | {"seconds_a_step": 0} == other | {"seconds_a_step": 0}


def test_rejects_another_stage(tmp_path):
    train(STAGE, tmp_path, init, loss, batch_at, "numbers")
    # The save interval does not affect the result.
    train(dataclasses.replace(STAGE, save_every=20), tmp_path, init, loss, batch_at, "numbers")
    with pytest.raises(InputError, match="stage"):
        train(dataclasses.replace(STAGE, steps=61), tmp_path, init, loss, batch_at, "numbers")


def test_stage_configures_the_optimizer():
    optimizer = dataclasses.replace(STAGE, algorithm="muon", weight_decay=0.3).optimizer
    assert (optimizer.algorithm, optimizer.weight_decay) == ("muon", 0.3)
    assert (optimizer.learning_rate, optimizer.warmup_steps, optimizer.decay_steps) == (0.2, 2, 60)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 2}, "--stage.steps 2: expected more than the 2 of --stage.warmup-steps"),
        ({"save_every": 0}, "--stage.save-every 0: expected 1 or more"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: expected 0 to"),
    ],
)
def test_stage_rejects_invalid_settings(wrong, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(STAGE, **wrong)


def test_command_reports_invalid_settings_in_one_line(tmp_path, monkeypatch, capsys):
    arguments = ["--workdir", str(tmp_path / "run"), "--stage.steps", "5"]
    monkeypatch.setattr(sys, "argv", ["classifier", *arguments])
    with pytest.raises(SystemExit) as ended:
        classifier.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("classifier: error: --stage.steps 5")
    assert not (tmp_path / "run").exists()


def test_rejects_other_data(tmp_path):
    train(STAGE, tmp_path, init, loss, batch_at, "numbers")
    with pytest.raises(InputError, match="data"):
        train(STAGE, tmp_path, init, loss, batch_at, "other numbers")


def test_stops_at_a_non_finite_loss(tmp_path):
    def broken(params, batch, key):
        value, metrics = loss(params, batch, key)
        return value * jnp.nan, metrics

    with pytest.raises(InputError, match="step 10 is nan: lower"):
        train(STAGE, tmp_path, init, broken, batch_at, "numbers")
    assert RunFolder(tmp_path).steps() == []


def test_rejects_concurrent_training(tmp_path):
    def another(step):
        train(STAGE, tmp_path, init, loss, batch_at, "numbers")

    with pytest.raises(InputError, match="another process is training in this folder"):
        train(STAGE, tmp_path, init, loss, another, "numbers")
