"""`python -m train`: bad input gives one line, and nothing is written."""

import dataclasses
import os
import subprocess
import sys

import pytest

from instantid_jax.runs.folder import RunFolder
from tests.runs.trained_run import write_run
from tests.train import tiny_config, training_process
from train.__main__ import main
from train.runs.lock import locked


@pytest.fixture(scope="module", autouse=True)
def made():
    """The model and the data, created on first use."""
    return tiny_config.get_config()


def refused(capsys, workdir, *options, config=training_process.CONFIG):
    """Returns the one line of the error."""
    with pytest.raises(SystemExit) as ended:
        main([str(config), "--workdir", str(workdir), *map(str, options)])
    assert ended.value.code == 2
    assert not workdir.exists()
    message = capsys.readouterr().err
    assert "Traceback" not in message
    (line,) = [line for line in message.splitlines() if line.startswith("train: error: ")]
    return line


WRONG = {
    "steps": (("--steps", 0), "steps=0"),
    "mesh": (("--mesh.fsdp", 3), "there are 8"),
    "batch": (("--global-batch-size", 12), "multiple of 8"),
    "micro-batches": (("--step.micro-batches", 0), "micro_batches=0"),
    "model": (("--model.sdxl", "/nowhere/model"), "/nowhere/model"),
    "dataset": (("--data.datasets.0.folder", "/nowhere/data"), "/nowhere/data"),
    "dataset before the network": (
        ("--model.sdxl", "owner/name", "--data.datasets.0.folder", "/nowhere/data"),
        "/nowhere/data",
    ),
    "validation before the network": (
        ("--model.sdxl", "owner/name", "--validation.dataset", "/nowhere/data"),
        "/nowhere/data",
    ),
    "mesh before the network": (("--model.sdxl", "owner/name", "--mesh.fsdp", 3), "--mesh.fsdp 1"),
    "prediction": (("--objective.prediction-type", "v_prediction"), "epsilon"),
    "seed": (("--seed", -1), "seed=-1"),
    "schedule": (("--optimizer.schedule", "cosine"), "decay_steps"),
    "state": (("--state", "/nowhere/run"), "/nowhere/run"),
    "profile": (("--profile", -1), "profile=-1"),
    "loggers": (("--loggers", "wandb", "wandb"), "each name once"),
    "change": (("--change", "seed"), "--change seed: it cannot change on resume"),
    "change given twice": (
        ("--change", "optimizer.b1", "--change", "optimizer.b2"),
        "--change is given 2 times",
    ),
    "change of a new run": (("--change", "optimizer.b1"), "has no checkpoint"),
    "distillation": (("--distillation.steps", 2), "python -m train.distill"),
    "coordinator": (("--coordinator", "127.0.0.1:1"), "processes"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_setting_gets_one_line(capsys, tmp_path, wrong):
    options, message = WRONG[wrong]
    batch = () if wrong == "batch" else ("--global-batch-size", 8)
    assert message in refused(capsys, tmp_path / "run", *batch, *options)


def test_a_value_that_is_no_choice_gets_the_choices(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main([training_process.CONFIG, "--workdir", str(tmp_path), "--mesh.frozen", "shared"])
    message = capsys.readouterr().err
    assert ended.value.code == 2 and "shared" in message and "sharded" in message


CONFIGS = {
    "missing": (None, "no such file"),
    "empty": ("", "no get_config()"),
    "not Python": ("def", "invalid Python"),
    "another thing": ("def get_config(): return 3", "must return a train.config.TrainConfig"),
    "unknown name": ("def get_config(): return nope", "'nope' is not defined"),
    "unknown setting": (
        "from train.config import MeshConfig\ndef get_config(): return MeshConfig(nope=0)",
        "unexpected keyword argument 'nope'",
    ),
    "missing module": ("import nope", "No module named 'nope'"),
    "bad value": (
        "from train.config import MeshConfig\ndef get_config(): return MeshConfig(fsdp=0)",
        "fsdp=0",
    ),
}


@pytest.mark.parametrize("wrong", CONFIGS)
def test_wrong_file_gets_one_line(capsys, tmp_path, wrong):
    text, message = CONFIGS[wrong]
    path = tmp_path / "config.py"
    if text is not None:
        path.write_text(text)
    assert message in refused(capsys, tmp_path / "run", config=path)


def test_workdir_that_is_a_file_gets_one_line(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SystemExit) as ended:
        main([training_process.CONFIG, "--workdir", str(file), "--global-batch-size", "8"])
    assert ended.value.code == 2
    assert f"{file} is a file" in capsys.readouterr().err


def test_run_without_networks_gets_one_line(capsys, tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "networks.json").unlink()
    with pytest.raises(SystemExit) as ended:
        main([training_process.CONFIG, "--workdir", f"{tmp_path}/run", "--global-batch-size", "8"])
    assert ended.value.code == 2
    assert f"{tmp_path}/run has no networks.json, which" in capsys.readouterr().err


def test_address_as_workdir_gets_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main([training_process.CONFIG, "--workdir", "s3://bucket/run"])
    assert ended.value.code == 2
    assert "pass --checkpoints.folder s3://bucket/run" in capsys.readouterr().err


def test_locked_workdir_gets_one_line(capsys, tmp_path):
    with locked(RunFolder(tmp_path)):
        with pytest.raises(SystemExit) as ended:
            main([training_process.CONFIG, "--workdir", str(tmp_path), "--global-batch-size", "8"])
        assert not list(tmp_path.iterdir())
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(
        f"train: error: {tmp_path}: another process is training in this folder"
    )


def test_prints_usage_without_a_config(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "CONFIG --workdir DIR" in capsys.readouterr().out


def test_every_setting_is_an_option(capsys):
    with pytest.raises(SystemExit) as ended:
        main([training_process.CONFIG, "--help"])
    assert ended.value.code == 0
    message = capsys.readouterr().out
    assert "--workdir" in message
    for section in ("optimizer", "objective", "step", "mesh", "checkpoints"):
        for field in dataclasses.fields(getattr(tiny_config.get_config(), section)):
            name = field.name.replace("_", "-")
            assert f"--{section}.{name}" in message or f"--{section}.no-{name}" in message


def test_without_its_packages_a_program_says_how_to_install_them(tmp_path):
    """In processes of their own, where TFDS or Beam cannot be imported."""
    hidden = {
        ("train.data.build", "tensorflow_datasets"): "pip install -e '.[train]'",
        ("train.prepare.beam", "apache_beam"): "pip install -e '.[beam]'",
    }
    for (program, package), remedy in hidden.items():
        hide = f"import sys\nsys.modules[{package!r}] = None\n"
        (tmp_path / "sitecustomize.py").write_text(hide)
        paths = os.pathsep.join([str(tmp_path), str(training_process.ROOT)])
        ran = subprocess.run(
            [sys.executable, "-m", program],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
        assert ran.returncode == 2 and "Traceback" not in ran.stderr
        (line,) = ran.stderr.splitlines()
        assert "error: " in line and line.endswith(remedy)
