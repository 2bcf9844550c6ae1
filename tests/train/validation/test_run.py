"""Validation in a run: what is logged, and that it changes nothing else."""

import pytest

from instantid_jax.cache import cache_folder
from tests.train import training_process
from train.data.drawn import drawn_dataset

SMALL = ("--validation.size", 64, 64, "--validation.num-inference-steps", 2)


def options(*more):
    faces = str(drawn_dataset(cache_folder()))
    return ("--validation.dataset", faces, "--validation.records", 2, *SMALL, *more)


@pytest.mark.slow
def test_a_validated_run_is_the_same_run(tmp_path):
    plain, validated = tmp_path / "plain", tmp_path / "validated"
    steps = ("--steps", 4)
    assert training_process.end(training_process.start(plain, *steps)) == 0
    given = options("--validation.every", 2)
    assert training_process.end(training_process.start(validated, *steps, *given)) == 0
    lines = training_process.metrics(validated)
    numbers = [line for line in lines if "validation/loss" in line]
    assert [line["step"] for line in numbers] == [2, 4]
    assert all(line["validation/loss_t_to_250"] > 0 for line in numbers)
    assert training_process.trace(validated) == training_process.trace(plain)
    states = [training_process.state(run, 4) for run in (plain, validated)]
    assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])
    pictures = sorted(path.name for path in (validated / "samples").iterdir())
    assert pictures == ["00000002.png", "00000004.png"]
