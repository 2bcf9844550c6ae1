"""The miniature's training loop: it learns, and goes on to the bit where it ended."""

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


def test_it_learns_and_records(tmp_path):
    params = train(STAGE, tmp_path, init, loss, batch_at, "numbers")
    np.testing.assert_allclose(params["kernel"], WANTED, atol=0.05)
    told = lines(tmp_path)
    assert [line["step"] for line in told] == [10, 20, 30, 40, 50, 60]
    assert told[-1]["loss"] < 0.01 * told[0]["loss"]
    assert {"worst", "grad_norm", "learning_rate"} <= told[0].keys()


@pytest.mark.slow
def test_ended_early_it_goes_on_to_the_same_bits(tmp_path):
    def ends(step):
        if step == 25:
            raise KeyboardInterrupt
        return batch_at(step)

    straight = train(STAGE, tmp_path / "a", init, loss, batch_at, "numbers")
    with pytest.raises(KeyboardInterrupt):
        train(STAGE, tmp_path / "b", init, loss, ends, "numbers")
    assert RunFolder(tmp_path / "b").steps() == [20]
    resumed = train(STAGE, tmp_path / "b", init, loss, batch_at, "numbers")
    assert resumed["kernel"].tobytes() == straight["kernel"].tobytes()
    for one, other in zip(lines(tmp_path / "a"), lines(tmp_path / "b"), strict=True):
        assert one | {"seconds_a_step": 0} == other | {"seconds_a_step": 0}


def test_another_stage_is_refused(tmp_path):
    train(STAGE, tmp_path, init, loss, batch_at, "numbers")
    # How often it saves changes no number.
    train(dataclasses.replace(STAGE, save_every=20), tmp_path, init, loss, batch_at, "numbers")
    with pytest.raises(InputError, match="stage"):
        train(dataclasses.replace(STAGE, steps=61), tmp_path, init, loss, batch_at, "numbers")


def test_its_settings_are_the_optimisers():
    optimizer = dataclasses.replace(STAGE, algorithm="muon", weight_decay=0.3).optimizer
    assert (optimizer.algorithm, optimizer.weight_decay) == ("muon", 0.3)
    assert (optimizer.learning_rate, optimizer.warmup_steps, optimizer.decay_steps) == (0.2, 2, 60)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": 2}, "--stage.steps 2: expected more than the 2 of --stage.warmup-steps"),
        ({"save_every": 0}, "--stage.save-every 0: expected 1 up"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: expected 0 to"),
    ],
)
def test_wrong_settings_are_refused_when_they_are_named(wrong, told):
    with pytest.raises(InputError, match=told):
        dataclasses.replace(STAGE, **wrong)


def test_wrong_settings_get_one_line(tmp_path, monkeypatch, capsys):
    arguments = ["--workdir", str(tmp_path / "run"), "--stage.steps", "5"]
    monkeypatch.setattr(sys, "argv", ["classifier", *arguments])
    with pytest.raises(SystemExit) as ended:
        classifier.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("classifier: error: --stage.steps 5")
    assert not (tmp_path / "run").exists()


def test_other_data_are_refused(tmp_path):
    train(STAGE, tmp_path, init, loss, batch_at, "numbers")
    with pytest.raises(InputError, match="data"):
        train(STAGE, tmp_path, init, loss, batch_at, "other numbers")


def test_a_loss_that_is_not_finite_ends_it(tmp_path):
    def broken(params, batch, key):
        value, metrics = loss(params, batch, key)
        return value * jnp.nan, metrics

    with pytest.raises(InputError, match="step 10 is nan: lower"):
        train(STAGE, tmp_path, init, broken, batch_at, "numbers")
    assert RunFolder(tmp_path).steps() == []


def test_two_at_once_are_refused(tmp_path):
    def another(step):
        train(STAGE, tmp_path, init, loss, batch_at, "numbers")

    with pytest.raises(InputError, match="another process is training in this folder"):
        train(STAGE, tmp_path, init, loss, another, "numbers")
