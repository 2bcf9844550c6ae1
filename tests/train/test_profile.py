"""A trace begins when the first steps are over, and holds as many as asked for."""

import jax.numpy as jnp
import pytest

from train.profile import Profile


@pytest.fixture
def calls(monkeypatch):
    """What the profiler is told, between the steps."""
    told = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: told.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: told.append("stop"))
    return told


def run(calls, tmp_path, steps, until):
    with Profile(tmp_path, 10, steps) as profile:
        for step in range(11, until + 1):
            calls.append(step)
            profile.after(step, {"loss": jnp.zeros(())})
    return calls


def test_so_many_whole_steps_are_traced(calls, tmp_path):
    assert run(calls, tmp_path, 2, 16) == [11, 12, 13, "start", 14, 15, "stop", 16]


def test_run_that_ends_before_ends_the_trace(calls, tmp_path):
    assert run(calls, tmp_path, 5, 14) == [11, 12, 13, "start", 14, "stop"]


def test_nothing_is_traced_unless_asked(calls, tmp_path):
    assert run(calls, tmp_path, 0, 14) == [11, 12, 13, 14]
