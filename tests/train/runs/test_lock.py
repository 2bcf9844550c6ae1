import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from instantid_jax.errors import InputError
from instantid_jax.runs.folder import RunFolder
from train.runs.lock import locked

ROOT = Path(__file__).parent.parent.parent.parent


def test_rejects_a_second_run_while_the_first_is_running(tmp_path):
    run = RunFolder(tmp_path / "deep" / "run")
    with locked(run):
        (run.path / "metrics.jsonl").touch()
        with pytest.raises(
            InputError, match=r"deep/run: another process is training in this folder: wait"
        ):
            with locked(run):
                pytest.fail("two at once")
        assert [path.name for path in run.path.iterdir()] == ["metrics.jsonl"]
    with locked(run):
        pass


def test_removes_a_folder_that_stays_empty(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match="nothing fits"), locked(run):
        raise InputError("nothing fits")
    assert not run.path.exists()


def test_killed_process_releases_the_lock(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from instantid_jax.runs.folder import "
        "RunFolder; from train.runs.lock import locked\n"
        "with locked(RunFolder(Path(sys.argv[1]))): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError), locked(RunFolder(tmp_path)):
        pass
    process.kill()
    process.communicate()
    with locked(RunFolder(tmp_path)):
        pass


def test_warns_on_file_systems_without_locks(tmp_path, monkeypatch, caplog):
    def flock(descriptor, operation):
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(RunFolder(tmp_path / "run")):
        assert "against a second run" in caplog.text
