"""A trace skips the first steps, and covers the requested number of steps."""

import jax.numpy as jnp
import pytest

from train.profile import Profile


@pytest.fixture
def calls(monkeypatch):
    """Records steps and calls of the profiler in order."""
    recorded = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: recorded.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: recorded.append("stop"))
    return recorded


def run(calls, tmp_path, steps, until):
    with Profile(tmp_path, 10, steps) as profile:
        for step in range(11, until + 1):
            calls.append(step)
            profile.after(step, {"loss": jnp.zeros(())})
    return calls


def test_traces_the_requested_number_of_steps(calls, tmp_path):
    assert run(calls, tmp_path, 2, 16) == [11, 12, 13, "start", 14, 15, "stop", 16]


def test_exit_stops_the_trace(calls, tmp_path):
    assert run(calls, tmp_path, 5, 14) == [11, 12, 13, "start", 14, "stop"]


def test_traces_nothing_by_default(calls, tmp_path):
    assert run(calls, tmp_path, 0, 14) == [11, 12, 13, 14]
