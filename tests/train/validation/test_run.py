"""Validation in a run: what is logged, and that it changes nothing else."""

import signal

import numpy as np
import pytest
from PIL import Image

from instantid_jax import embedded
from instantid_jax.cache import cache_folder
from instantid_jax.runs.folder import RunFolder
from tests.parity.clip_model import write_clip
from tests.train import training_process
from tests.train.validation.killed_run import MOMENTS
from train.data.drawn import drawn_dataset

# The loss falls while the learning rate is small, and rises when it is not.
RATE = ("--optimizer.learning-rate", 0.2, "--optimizer.warmup-steps", 10)
SMALL = ("--validation.size", 64, 64, "--validation.num-inference-steps", 2)


def options(*more):
    faces = str(drawn_dataset(cache_folder()))
    return ("--validation.dataset", faces, "--validation.records", 2, *SMALL, *more)


@pytest.mark.slow
def test_a_validated_run_is_the_same_run(tmp_path):
    plain, validated = tmp_path / "plain", tmp_path / "validated"
    steps = ("--steps", 4)
    assert training_process.end(training_process.start(plain, *steps)) == 0
    best = ("--checkpoints.best", "loss", "--checkpoints.every", 2, "--checkpoints.keep", 1)
    given = options("--validation.every", 2, *best)
    status, log = training_process.finish(training_process.start(validated, *steps, *given))
    assert status == 0
    lines = training_process.metrics(validated)
    numbers = [line for line in lines if "validation/loss" in line]
    assert [line["step"] for line in numbers] == [2, 4]
    assert all(line["validation/loss_t_to_250"] > 0 for line in numbers)
    lowest = min(numbers, key=lambda line: line["validation/loss"])["step"]
    assert RunFolder(validated).steps() == sorted({lowest, 4})
    assert f"train: the best checkpoint by loss is that of step {lowest}: " in log[-1]
    assert training_process.trace(validated) == training_process.trace(plain)
    states = [training_process.state(run, 4) for run in (plain, validated)]
    assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])
    pictures = sorted(path.name for path in (validated / "samples").iterdir())
    assert pictures == ["00000002.png", "00000004.png"]


@pytest.mark.slow
def test_a_killed_run_keeps_the_same_best_checkpoint(tmp_path):
    """Killed three times around the save of the checkpoint that becomes the best."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    best = ("--checkpoints.best", "loss", "--checkpoints.every", 2, "--checkpoints.keep", 1)
    # The last checkpoint is not the best one, and so is kept in addition.
    given = options("--steps", 6, "--validation.every", 2, *best, "--checkpoints.no-wait", *RATE)
    status, log = training_process.finish(training_process.start(straight, *given))
    assert status == 0
    losses = validations(straight)
    step = min(losses, key=lambda step: losses[step]["validation/loss"])
    assert step == 4, losses
    for moment in MOMENTS:
        program = ("tests.train.validation.killed_run", moment, step)
        dying = training_process.start(killed, *given, program=program)
        assert training_process.end(dying) == -signal.SIGKILL
    # The one that was the best until then is gone.
    assert RunFolder(killed).steps() == [step]
    status, killed_log = training_process.finish(training_process.start(killed, *given))
    assert status == 0
    assert killed_log[-1] == log[-1].replace(str(straight), str(killed))
    assert f"that of step {step}: " in log[-1]
    assert validations(killed) == losses
    for each in (step, 6):
        states = [training_process.state(run, each) for run in (straight, killed)]
        assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])
    assert [RunFolder(run).steps() for run in (straight, killed)] == [[step, 6]] * 2
    assert training_process.trace(killed) == training_process.trace(straight)


def validations(workdir):
    """The numbers by step."""
    lines = training_process.metrics(workdir)
    return {line["step"]: line for line in lines if "validation/loss" in line}


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path):
    """Each samples one of the images."""
    pack, alone, split = str(embedded.FACE_PACK), tmp_path / "alone", tmp_path / "split"
    judge = ("--validation.recognizer", f"{pack}/recogniser.onnx", "--validation.face-pack", pack)
    given = ("--steps", 1, "--optimizer.learning-rate", 1e-8, "--validation.every", 1)
    write_clip(tmp_path / "clip")
    given = options(*given, *judge, "--validation.clip", tmp_path / "clip")
    assert training_process.end(training_process.start(alone, *given)) == 0
    first, second = training_process.start_two(split, *given)
    assert [training_process.end(first), training_process.end(second)] == [0, 0]
    one, two = (
        next(line for line in training_process.metrics(run) if "validation/loss" in line)
        for run in (alone, split)
    )
    assert one.keys() == two.keys() >= {"validation/face_cosine", "validation/clip_t"}
    assert two["validation/clip_t"] == pytest.approx(one["validation/clip_t"], abs=1e-2)
    assert two["validation/loss"] == pytest.approx(one["validation/loss"], rel=1e-4)
    pictures = [np.asarray(Image.open(run / "samples/00000001.png")) for run in (alone, split)]
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() < 1
