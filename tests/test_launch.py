"""The files in docs/launch/ start the training program with settings that exist."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from train import distributed, loop
from train.__main__ import main

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "docs" / "launch"


def run_with_stand_ins(
    script: str, tmp_path: Path, commands: dict[str, str], **environment: str
) -> None:
    """Runs a script whose commands are replaced, by lines of a shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-c", script, "bash"],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "OUT": str(tmp_path), **environment},
        check=False,
        timeout=60,
    )


def words(path: Path) -> list[str]:
    return path.read_text().splitlines()


# Writes the arguments of the command that it stands for.
RECORD = 'printf "%s\\n" "$@" > "$OUT/{}"'


def slurm(tmp_path: Path) -> list[str]:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").touch()
    example = next(line for line in words(LAUNCH / "slurm.sh") if "sbatch docs" in line)
    script = shlex.join(shlex.split(example.removeprefix("#"))[1:])
    run_with_stand_ins(
        f"bash {script}",
        tmp_path,
        {
            "srun": f"{RECORD.format('training')}; exit 75",
            "scontrol": RECORD.format("requeued"),
        },
        VENV=str(tmp_path / "venv"),
        SLURM_JOB_ID="7",
    )
    assert words(tmp_path / "requeued") == ["requeue", "7"]
    return words(tmp_path / "training")[1:]


def gke(tmp_path: Path) -> list[str]:
    job = yaml.safe_load((LAUNCH / "gke.yaml").read_text())["spec"]["replicatedJobs"][0]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    height, width = spec["template"]["spec"]["nodeSelector"][
        "cloud.google.com/gke-tpu-topology"
    ].split("x")
    chips = spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    assert chips == int(height) * int(width) and spec["completions"] == spec["parallelism"]
    return [*container["command"], *container["args"]]


def xpk(tmp_path: Path) -> list[str]:
    script = f"bash {LAUNCH / 'xpk.sh'} cluster image bucket"
    run_with_stand_ins(script, tmp_path, {"xpk": RECORD.format("xpk")})
    given = words(tmp_path / "xpk")
    return shlex.split(given[given.index("--command") + 1])


def skypilot(tmp_path: Path, machines: int = 1) -> list[str]:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    run_with_stand_ins(
        task["run"],
        tmp_path,
        {"python": RECORD.format("training")},
        CONFIG=task["envs"]["CONFIG"],
        SKYPILOT_NUM_NODES=str(machines),
        SKYPILOT_NODE_RANK="1",
        SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2",
    )
    return ["python", *words(tmp_path / "training")]


@pytest.mark.parametrize("command_of", [slurm, gke, xpk, skypilot])
def test_the_command_parses(command_of, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "train", lambda config, *_: seen.append(config) or 0)
    monkeypatch.chdir(ROOT)
    program, *args = command_of(tmp_path)
    assert [program, *args[:2]] == ["python", "-m", "train"]
    with pytest.raises(SystemExit) as ended:
        main(args[2:])
    assert ended.value.code == 0
    (config,) = seen
    assert config.global_batch_size >= 96


def test_machines_of_skypilot_find_each_other(tmp_path, monkeypatch):
    joined = []
    monkeypatch.setattr(loop, "train", lambda *_: 0)
    monkeypatch.setattr(distributed, "join", joined.append)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(skypilot(tmp_path, machines=2)[3:])
    assert joined == [
        distributed.ProcessConfig(processes=2, process_id=1, coordinator="10.0.0.1:8476")
    ]
