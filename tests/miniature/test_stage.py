"""The miniature's training loop: it learns, resumes bit-identically, and may be prolonged."""

import contextlib
import dataclasses
import json
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.runs.contents import META_FILE, read_description, stored_arrays
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import newest_meta, restore
from miniature.evaluation import classifier
from miniature.stage import Stage, train
from train.runs.saving import Saver

STAGE = Stage(steps=60, learning_rate=0.2, warmup_steps=2, ema_decay=0.5, save_every=10)
LONGER = dataclasses.replace(STAGE, steps=160)
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


@pytest.fixture(scope="module")
def prolonged(tmp_path_factory):
    """Folder and result of a run of 60 steps that was prolonged to 160."""
    folder = tmp_path_factory.mktemp("prolonged")
    train(STAGE, folder, init, loss, batch_at, "numbers")
    return folder, train(LONGER, folder, init, loss, batch_at, "numbers")


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
    # It has no option to ignore the difference.
    with pytest.raises(InputError, match=r"stage was .*; revert this or use another folder$"):
        train(dataclasses.replace(STAGE, seed=1), tmp_path, init, loss, batch_at, "numbers")


def test_a_prolonged_run_restarts_its_schedule(prolonged):
    folder, params = prolonged
    rows = lines(folder)
    assert [line["step"] for line in rows] == [*range(10, 161, 10)]
    rates = {line["step"]: line["learning_rate"] for line in rows}
    assert rates[60] < 0.01 * STAGE.learning_rate and rates[160] < 0.01 * STAGE.learning_rate
    assert max(rates[step] for step in rates if step > 60) == rates[70]
    assert rates[70] == pytest.approx(STAGE.learning_rate / 3, rel=0.05)
    assert rows[-1]["loss"] < rows[5]["loss"]
    np.testing.assert_allclose(params["kernel"], WANTED, atol=1e-3)


def test_a_prolonged_run_records_both_ends(prolonged):
    run = RunFolder(prolonged[0])
    assert newest_meta(run).fingerprint["stage"]["steps"] == [60, 160]
    (event,) = map(json.loads, run.events.read_text().splitlines())
    assert event == {"event": "prolonged", "step": 60, "ends": [60, 160]}


@pytest.mark.parametrize("stopped", [pytest.param(35, marks=pytest.mark.slow), 85])
def test_an_interrupted_prolongation_is_bit_identical(prolonged, tmp_path, stopped):
    def interrupted(step):
        if step == stopped:
            raise KeyboardInterrupt
        return batch_at(step)

    # At 35 it is prolonged before its first 60 steps are done.
    for stage in (STAGE, LONGER):
        with contextlib.suppress(KeyboardInterrupt):
            train(stage, tmp_path, init, loss, interrupted, "numbers")
    assert RunFolder(tmp_path).steps() == [stopped // 10 * 10]
    resumed = train(LONGER, tmp_path, init, loss, batch_at, "numbers")
    assert resumed["kernel"].tobytes() == prolonged[1]["kernel"].tobytes()
    for one, other in zip(lines(prolonged[0]), lines(tmp_path), strict=True):
        assert one | {"seconds_a_step": 0} == other | {"seconds_a_step": 0}


def test_a_run_is_prolonged_repeatedly_and_its_result_returned_again(prolonged, tmp_path):
    shutil.copytree(prolonged[0], tmp_path / "run")
    again = train(LONGER, tmp_path / "run", init, loss, batch_at, "numbers")
    assert again["kernel"].tobytes() == prolonged[1]["kernel"].tobytes()
    longest = dataclasses.replace(LONGER, steps=162)
    more = train(longest, tmp_path / "run", init, loss, batch_at, "numbers")
    assert more["kernel"].tobytes() != prolonged[1]["kernel"].tobytes()
    assert newest_meta(RunFolder(tmp_path / "run")).fingerprint["stage"]["steps"] == [60, 160, 162]


def test_prolongs_runs_that_recorded_a_plain_number(prolonged, tmp_path):
    train(STAGE, tmp_path / "new", init, loss, batch_at, "numbers")
    run = RunFolder(tmp_path / "new")
    description = read_description(run.checkpoints / "60" / "meta" / META_FILE)
    _, state, meta = restore(run, stored_arrays(description))
    stage = {**meta.fingerprint["stage"], "steps": 60}
    old = dataclasses.replace(meta, fingerprint={**meta.fingerprint, "stage": stage})
    with Saver(RunFolder(tmp_path / "old"), start=0, every=1) as saver:
        saver.save(60, state, old)
    resumed = train(LONGER, tmp_path / "old", init, loss, batch_at, "numbers")
    assert resumed["kernel"].tobytes() == prolonged[1]["kernel"].tobytes()


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"steps": 161, "learning_rate": 0.1}, "numbers", "'learning_rate': 0.2.*: 0.1"),
        ({"steps": 161}, "other numbers", "data was numbers, is other numbers"),
        ({"steps": 159}, "numbers", "--stage.steps 159: .* at step 160 of 160: expected 160"),
        ({"steps": 60}, "numbers", "--stage.steps 60: .* is at step 160 of 160"),
    ],
)
def test_rejects_fewer_steps_and_other_changes(prolonged, tmp_path, changes, data, message):
    shutil.copytree(prolonged[0], tmp_path / "run")
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(STAGE, **changes), tmp_path / "run", init, loss, batch_at, data)
    assert RunFolder(tmp_path / "run").events.read_bytes() == (
        RunFolder(prolonged[0]).events.read_bytes()
    )
    assert lines(tmp_path / "run") == lines(prolonged[0])


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
