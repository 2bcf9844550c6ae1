"""The command as a whole: its help, how it ends, and a second process of it."""

import contextlib
import errno
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import pytest

from instantid_jax import cli
from tests.pipeline import small_model

ROOT = Path(__file__).parents[2]


def test_help_names_the_commands(run):
    ran = run("--help")
    assert ran.status == 0 and ran.err == []
    text = "\n".join(ran.out)
    for command in ("generate", "embed", "demo"):
        assert f"• {command}" in text


def test_version_names_the_packages_and_the_devices(run):
    ran = run("--version")
    assert (ran.status, ran.err) == (0, [])
    library, packages, machine, devices = ran.out
    assert library == f"instantid-jax {version('instantid-jax')}"
    assert packages.startswith(f"jax {jax.__version__}, ")
    assert machine.startswith(f"Python {platform.python_version()}, ")
    assert devices == "cpu: 8 x cpu"


def test_versions_are_printed_before_a_backend_that_fails(run, monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend")

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    ran = run("--version")
    assert ran.status == 2 and len(ran.out) == 3
    (line,) = ran.err
    assert line.startswith(
        "instantid: error: JAX_PLATFORMS=nonsense: JAX finds no such device here"
    )


def test_help_shows_every_flag_without_prefix_and_with_its_meaning(run):
    ran = run("generate", "--help")
    lines = [line.strip("│ ") for line in ran.out]
    names = {re.match(r"--[\w.-]*\w", line)[0] for line in lines if line.startswith("--")}
    assert names >= {
        *("--face", "--prompt", "--output", "--pose", "--control-images", "--sdxl", "--instantid"),
        *("--model", "--controlnets", "--dtype", "--negative-prompt", "--num-inference-steps"),
        *("--guidance-scale", "--ip-adapter-scale", "--controlnet-conditioning-scale", "--seed"),
        *("--control-guidance-start", "--guess-mode", "--original-size", "--scheduler"),
        *("--face-pack", "--download-face-pack"),
    }
    # No pairs of flags: what is on by default has only the one that turns it off.
    off = {name for name in names if name.startswith("--no-")}
    assert off == {"--no-prompt-weighting"} and not [name for name in names if "." in name]
    text = " ".join("\n".join(ran.out).replace("│", " ").split())
    for meaning in ("photos of one person", "denoising steps", "its license is printed first"):
        assert meaning in text


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ImportError("libGL.so.1: cannot open shared object file: No such file or directory"),
            1,
            "the system library libGL.so.1 is missing: install it "
            "(Debian, Ubuntu: apt-get install libgl1)",
        ),
        (
            ImportError("libodd.so: cannot open shared object file: No such file or directory"),
            1,
            "the system library libodd.so is missing: install it",
        ),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9 GiB\nmore"),
            1,
            "the device's memory is full (Out of memory: 9 GiB): make smaller images or fewer "
            "at a time, compute in bfloat16, or use more devices",
        ),
        (
            OSError(errno.ENOSPC, "No space left", "a/out.png"),
            1,
            "a/out.png: No space left; make room, then rerun",
        ),
    ],
)
def test_what_a_machine_lacks_is_told_in_a_line(run, monkeypatch, raised, status, line):
    def fail(_):
        raise raised

    monkeypatch.setattr(cli, "_run", fail)
    ran = run("demo")
    assert (ran.status, ran.err) == (status, [f"instantid: error: {line}"])


@pytest.mark.parametrize("raised", [ImportError("no module"), OSError("odd"), ValueError("bug")])
def test_a_bug_keeps_its_traceback(run, monkeypatch, raised):
    def fail(_):
        raise raised

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(type(raised)):
        run("demo")


def test_opencv_without_its_system_library_is_told(tmp_path):
    """In a process of its own, where importing OpenCV fails as it does on a slim machine."""
    (tmp_path / "cv2.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file')"
    )
    ran = process(["demo"], PYTHONPATH=str(tmp_path))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.splitlines()[-1].endswith("(Debian, Ubuntu: apt-get install libgl1)")
    assert "Traceback" not in ran.stderr


COUNTING = """
import collections, json, sys
import jax
from instantid_jax import cli

counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
cli.main(sys.argv[1:])
cache = "/jax/compilation_cache/"
print(json.dumps([counts[cache + "cache_hits"], counts[cache + "cache_misses"]]))
"""


def process(arguments, script="from instantid_jax.cli import main; main()", **environment):
    paths = [environment.pop("PYTHONPATH", ""), str(ROOT)]
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "XLA_FLAGS": "",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
    }
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


@pytest.mark.slow
def test_a_second_process_compiles_nothing(weights, tmp_path):
    small_model.person(0, image_size=(64, 128)).save(tmp_path / "me.npz")
    arguments = ["generate", "--face", tmp_path / "me.npz", "--output", tmp_path / "out.png"]
    arguments += [*weights, "--num-inference-steps", 2, "--prompt"]
    counts = []
    for prompt in ("rain", "snow"):
        ran = process([*arguments, prompt], COUNTING, XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert ran.returncode == 0, ran.stderr
        counts.append(json.loads(ran.stdout.splitlines()[-1]))
    (hits, misses), (hits_again, misses_again) = counts
    assert hits == 0 and misses >= 7
    assert misses_again == 0 and hits_again == misses


def test_a_reader_that_stops_early_is_no_error():
    command = f'"{sys.executable}" -c "from instantid_jax.cli import main; main()" --version'
    ran = subprocess.run(
        ["bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    assert ran.stderr == "" and ran.returncode in (0, 128 + signal.SIGPIPE)


def test_a_deleted_working_folder_is_told(tmp_path, monkeypatch, run):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    ran = run_here("demo")
    assert ran == (2, "instantid: error: the working folder was deleted: change to another one")


def run_here(*arguments):
    """Runs the command in the working folder; returns the status and the last line."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return ended.value.code, errors.getvalue().splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_signal_in_a_callback_is_not_lost(number, status):
    """Python drops exceptions in callbacks, such as JAX's for collecting garbage."""
    script = f"""
import gc, os, signal, time
from instantid_jax import cli

def fall(phase, info):
    if phase == "start":
        os.kill(os.getpid(), {int(number)})

def wait(args):
    gc.callbacks.append(fall)
    gc.collect()
    gc.callbacks.remove(fall)
    time.sleep(30)

cli._run = wait
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.main(["demo"])
"""
    ran = process([], script)
    assert ran.returncode == status, ran.stderr


@pytest.mark.parametrize("platforms", ["cuda", "nonsense"])
def test_a_platform_that_is_not_here_gets_one_line(platforms, tmp_path):
    ran = process(["demo", "--output", tmp_path / "o.png"], JAX_PLATFORMS=platforms)
    assert ran.returncode == 2 and "Traceback" not in ran.stderr
    line = ran.stderr.splitlines()[-1]
    assert line.startswith(f"instantid: error: JAX_PLATFORMS={platforms}: JAX finds no such device")
    assert not list(tmp_path.iterdir())
