"""Interrupted runs resume bit-identically to an uninterrupted one."""

import shutil
import signal

import numpy as np
import pytest

from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore
from tests.train import training_process
from train.runs.saving import PREEMPTED_STATUS, Saver

STEPS = 9


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("straight")
    assert training_process.end(training_process.start(workdir, "--steps", STEPS)) == 0
    return workdir


def assert_same_state(one, other, step=STEPS):
    ours, theirs = training_process.state(one, step), training_process.state(other, step)
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("ema/") for name in ours)
    for name in ours:
        assert ours[name].tobytes() == theirs[name].tobytes(), name


@pytest.mark.slow
def test_sigkill_loses_at_most_one_interval_and_resumes_exactly(straight, tmp_path):
    killed = training_process.start(tmp_path, "--steps", 1000)
    training_process.signal_at(killed, tmp_path, 4, signal.SIGKILL)
    killed.communicate()
    last = training_process.metrics(tmp_path)[-1]["step"]
    # A partial last line, as left by a killed process.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    assert training_process.end(training_process.start(tmp_path, "--steps", STEPS)) == 0
    resumed = [event for event in training_process.events(tmp_path) if event["event"] == "resumed"]
    assert len(resumed) == 1
    assert 0 < resumed[0]["step"] <= last + 1
    assert resumed[0]["step"] >= last - 3
    assert training_process.trace(tmp_path) == training_process.trace(straight)
    assert_same_state(straight, tmp_path)


@pytest.mark.slow
def test_flipped_bit_changes_the_trace(straight, tmp_path):
    state = training_process.state(straight, 3)
    name = "params/controlnet.conv_in.kernel"
    changed = state[name].copy()
    changed.reshape(-1).view(np.uint32)[0] ^= 1 << 20
    run = RunFolder(tmp_path)
    shapes = {n: value for n, value in state.items()}
    meta = restore(RunFolder(straight), shapes, step=3).meta
    with Saver(run, start=0, every=3) as saver:
        saver.save(3, {**state, name: changed}, meta)
    shutil.copy(straight / "networks.json", tmp_path)
    assert training_process.end(training_process.start(tmp_path, "--steps", 5)) == 0
    ours, theirs = training_process.metrics(tmp_path), training_process.metrics(straight)[3:5]
    assert [line["step"] for line in ours] == [4, 5]
    assert [a["example_ids"] for a in ours] == [b["example_ids"] for b in theirs]
    assert all(a["loss"] != b["loss"] for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_its_status(straight, tmp_path):
    ended = training_process.start(tmp_path, "--steps", 1000, "--no-log-example-ids")
    training_process.signal_at(ended, tmp_path, 4, signal.SIGTERM)
    status, log = training_process.finish(ended)
    assert status == PREEMPTED_STATUS
    assert log[-1].startswith("train: stopped: saved step ")
    assert log[-1].endswith("; the same command resumes from there")
    step = training_process.metrics(tmp_path)[-1]["step"]
    assert RunFolder(tmp_path).steps()[-1] == step
    assert training_process.events(tmp_path)[-1] == {"event": "preempted", "step": step}


@pytest.mark.slow
def test_two_processes_save_the_same_step_and_a_single_one_resumes(straight, tmp_path):
    first, second = training_process.start_two(tmp_path, "--steps", 1000)
    # The process that writes nothing gets the signal.
    training_process.signal_at(first, tmp_path, 20, signal.SIGCONT)
    second.send_signal(signal.SIGTERM)
    assert [training_process.end(first), training_process.end(second)] == [PREEMPTED_STATUS] * 2
    step = RunFolder(tmp_path).steps()[-1]
    assert training_process.metrics(tmp_path)[-1]["step"] == step
    assert training_process.end(training_process.start(tmp_path, "--steps", step + 2)) == 0
    ours, theirs = training_process.metrics(tmp_path), training_process.metrics(straight)
    assert [line["step"] for line in ours] == list(range(1, step + 3))
    for name in ("examples_crc32", "example_ids"):
        assert [line[name] for line in ours[:STEPS]] == [line[name] for line in theirs]
    losses = [[line["loss"] for line in lines[:STEPS]] for lines in (ours, theirs)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    # A single process continues with the same examples as two would.
    expected = tmp_path / "alone"
    assert training_process.end(training_process.start(expected, "--steps", step + 2)) == 0
    tail = [
        [x["example_ids"] for x in training_process.metrics(d)[-2:]] for d in (tmp_path, expected)
    ]
    assert tail[0] == tail[1]


@pytest.mark.slow
def test_error_names_the_changed_setting(straight):
    before = sorted(straight.rglob("*"))
    process = training_process.start(
        straight, "--steps", STEPS + 1, "--optimizer.learning-rate", 2e-3
    )
    _, stderr = process.communicate(timeout=training_process.LIMIT)
    assert process.returncode == 2
    line = stderr.strip().splitlines()[-1]
    assert "optimizer.learning_rate was 0.001, is 0.002" in line
    assert sorted(straight.rglob("*")) == before


@pytest.mark.slow
def test_nonfinite_states_are_never_saved(tmp_path):
    """Skipped steps change nothing, and the last one ends the run."""
    options = ("--optimizer.learning-rate", 1e15, "--optimizer.skip-nonfinite", 2)
    process = training_process.start(tmp_path, "--steps", 20, "--checkpoints.every", 1, *options)
    _, stderr = process.communicate(timeout=training_process.LIMIT)
    assert process.returncode == 2
    assert "this state is not saved" in stderr.splitlines()[-1]
    failed = [line["step"] for line in training_process.metrics(tmp_path) if not line["finite"]]
    assert len(failed) == 3
    steps = RunFolder(tmp_path).steps()
    assert steps[-1] == failed[1]
    last, skipped = (training_process.state(tmp_path, step) for step in (failed[0] - 1, failed[1]))
    name = "params/controlnet.conv_in.kernel"
    np.testing.assert_array_equal(last[name], skipped[name])
    assert training_process.events(tmp_path)[-1] == {"event": "diverged", "step": failed[2]}
