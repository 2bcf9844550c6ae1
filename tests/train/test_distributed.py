"""Either all processes join a run, or it fails."""

import numpy as np
import pytest

from instantid_jax.errors import InputError
from train.distributed import ProcessConfig, check_same, expected_processes, join


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, 4),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, 2),
        ({"SLURM_NTASKS": "8"}, 8),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2),
    ],
)
def test_environment_determines_the_expected_processes(environment, count):
    assert expected_processes(environment) == count


def test_fails_if_not_all_processes_join(monkeypatch):
    """If several processes are expected, none may train alone."""
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")

    def fails(*_):
        raise RuntimeError("DEADLINE_EXCEEDED: barrier timed out")

    monkeypatch.setattr("jax.distributed.initialize", fails)
    with pytest.raises(InputError, match=r"expected 2 processes.*DEADLINE_EXCEEDED"):
        join(ProcessConfig())


def test_fails_if_fewer_processes_joined(monkeypatch):
    monkeypatch.setattr("jax.distributed.initialize", lambda *_: None)
    with pytest.raises(InputError, match="expected 3 processes, but 1 joined"):
        join(ProcessConfig(processes=3))


@pytest.mark.parametrize(
    "wrong",
    [
        ProcessConfig(coordinator="a:1"),
        ProcessConfig(process_id=1),
        ProcessConfig(processes=0),
        ProcessConfig(processes=2, coordinator="a:1"),
    ],
)
def test_rejects_incomplete_settings(wrong):
    with pytest.raises(InputError, match="process"):
        join(wrong)


def test_fails_if_the_machine_is_one_of_several(monkeypatch):
    """Simulates a TPU pod without environment variables."""
    monkeypatch.setattr("jax.process_count", lambda: 4)
    with pytest.raises(InputError, match="one of 4"):
        join(ProcessConfig())


@pytest.mark.parametrize("differs", [None, 0, 1])
def test_processes_must_have_the_same_settings(monkeypatch, differs):
    """Simulates a second process that differs in one setting."""

    def gathered(ours):
        theirs = ours.copy()
        if differs is not None:
            theirs[differs, 0] ^= 1
        return np.stack([ours, theirs])

    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("train.distributed.multihost_utils.process_allgather", gathered)
    settings = {"mesh": "1", "steps": "2"}
    if differs is None:
        check_same(settings)
    else:
        with pytest.raises(
            InputError, match=f"process 1 and process 0 differ in {list(settings)[differs]}"
        ):
            check_same(settings)


def test_single_process_does_not_initialize_jax_distributed(monkeypatch):
    monkeypatch.setattr("jax.distributed.initialize", lambda *_: pytest.fail("joined"))
    join(ProcessConfig())
    join(ProcessConfig(processes=1))
    check_same({"a": "b"})
