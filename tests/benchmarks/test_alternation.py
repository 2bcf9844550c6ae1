"""Child processes that take turns."""

import os
from pathlib import Path

import pytest

from benchmarks.alternation import Side


@pytest.fixture
def side():
    side = Side("tests.benchmarks.counting", "2", COUNTED="yes")
    yield side
    side.close()


def test_yields_one_result_per_go(side):
    assert side.result() == 0
    side.go()
    assert side.result() == 1
    side.go()
    with pytest.raises(SystemExit, match=r"tests\.benchmarks\.counting ended with status 3"):
        side.result()
    side.go()
    with side.stopped():
        pass


def test_stopped_pauses_the_process(side):
    assert side.result() == 0
    pid = side._process.pid
    with side.stopped():
        assert os.waitid(os.P_PID, pid, os.WSTOPPED).si_code == os.CLD_STOPPED
    assert os.waitid(os.P_PID, pid, os.WCONTINUED).si_code == os.CLD_CONTINUED
    side.go()
    assert side.result() == 1


def test_adds_variables_to_the_environment(side):
    # Linux may show no environment right after the start.
    side.result()
    environment = Path(f"/proc/{side._process.pid}/environ").read_bytes().split(b"\0")
    assert b"COUNTED=yes" in environment
