"""Preparation from tars to records: counts, checksums, kills, workers and job arrays."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from instantid_jax.errors import InputError
from tests.face import synthetic_pack
from tests.train.prepare import web
from train.data.reading import FaceDataset
from train.prepare.__main__ import Options, prepare
from train.prepare.filtering import Filter
from train.prepare.inputs import find_shards
from train.prepare.output import Output
from train.prepare.record_settings import RecordSettings, plan

ROOT = Path(__file__).parents[3]
FILTER = {"min_side": 64, "min_face_share": 0.02, "min_det_score": 0.5, "min_sharpness": 0.0}


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return synthetic_pack.write_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Six tars, and the expected outcome of their images."""
    folder = tmp_path_factory.mktemp("web") / "tars"
    return folder, web.write_tars(folder, 6, 24)


@pytest.fixture(scope="module")
def settings(pack) -> RecordSettings:
    return RecordSettings(face_pack=str(pack), filter=Filter(**FILTER))


@pytest.fixture(scope="module")
def undisturbed(source, settings, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "out"
    prepare(Options(input=source[0], output=output, settings=settings))
    return output


def bytes_of(folder: Path) -> dict[str, str]:
    """Hashes of all files outside the scratch folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_accounts_for_every_image(undisturbed, source):
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    expected = dict(source[1])
    assert manifest["kept"] == expected.pop("kept")
    assert manifest["rejected"] == expected
    assert manifest["seen"] == sum(source[1].values())
    for shard in manifest["shards"]:
        assert shard["seen"] == shard["kept"] + sum(shard["rejected"].values())
    assert list(manifest["plan"]["face_pack"]) == ["detector.onnx", "recogniser.onnx"]
    assert {"onnxruntime", "insightface"} <= manifest["plan"]["versions"].keys()


def test_checksums_verify_a_copy(undisturbed, tmp_path):
    """Uses sha256sum; rclone reads the same format."""
    copy = tmp_path / "copy"
    shutil.copytree(undisturbed, copy)
    listed = {line.split("  ")[1] for line in (copy / "SHA256SUMS").read_text().splitlines()}
    dataset = {p.relative_to(copy).as_posix() for p in (copy / "instantid_faces").rglob("*.*")}
    assert listed == {p for p in dataset if (copy / p).is_file()} | {"manifest.json"}
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=copy).returncode == 0
    shard = next((copy / "instantid_faces" / "1.0.0").glob("*array_record*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    checked = subprocess.run(check, cwd=copy, capture_output=True, text=True)
    assert checked.returncode == 1 and f"{shard.name}: FAILED" in checked.stdout


def test_records_match_insightface(undisturbed, pack):
    from instantid_jax.face.analysis import FaceAnalyzer

    dataset = FaceDataset(undisturbed)
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert len(dataset) == manifest["kept"]
    analyzer = FaceAnalyzer(pack)
    for row in range(0, len(dataset), 7):
        record = dataset[row]
        assert (record.license, record.nsfw) == ("CC0", "UNLIKELY")
        assert record.captions["alt"].startswith("a ")
        assert record.pixels().shape[:2] == tuple(dataset.image_size[row]) == web.SIZE
        face = analyzer.analyze(record.pixels())
        np.testing.assert_allclose(record.kps, face.kps, atol=1.0)
        cosine = record.embedding @ face.embedding
        cosine /= np.linalg.norm(record.embedding) * np.linalg.norm(face.embedding)
        assert cosine > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2])
def test_workers_and_job_arrays_give_the_same_bytes(
    undisturbed, source, settings, tmp_path, workers, capsys
):
    for shard in (1, 0):
        options = Options(
            input=source[0],
            output=tmp_path / "out",
            workers=workers,
            shard=shard,
            of=2,
            settings=settings,
        )
        prepare(options)
        left = "3 of 6 shards still to be done by other jobs"
        assert (left in capsys.readouterr().out) == (shard == 1)
    assert bytes_of(tmp_path / "out") == bytes_of(undisturbed)


@pytest.mark.slow
def test_beam_gives_the_same_bytes(undisturbed, source, pack, tmp_path):
    output = tmp_path / "out"
    runner = ("--runner", "DirectRunner", "--direct_num_workers", "4")
    mode = ("--direct_running_mode", "multi_processing")
    ran = subprocess.run(
        [*command("train.prepare.beam", source, pack, output), *runner, *mode],
        cwd=ROOT,
        # Beam keeps a cache in the home folder.
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert bytes_of(output) == bytes_of(undisturbed)


def test_resumes_a_folder_of_a_run_killed_at_its_start(source, settings, tmp_path):
    (tmp_path / "out" / "instantid_faces").mkdir(parents=True)
    shards = find_shards(source[0])
    Output.open(tmp_path / "out", plan(settings, shards))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match="other contains other files: pass a new folder"):
        Output.open(tmp_path / "other", plan(settings, shards))
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_rejects_other_options_on_the_same_folder(undisturbed, source, settings):
    before = bytes_of(undisturbed)
    other = RecordSettings(face_pack=settings.face_pack, filter=Filter(**FILTER | {"min_side": 65}))
    with pytest.raises(InputError, match=r"was started with filter .*use the same, or"):
        prepare(Options(input=source[0], output=undisturbed, settings=other))
    assert bytes_of(undisturbed) == before


def test_rejects_a_changed_input(source, settings, tmp_path):
    shutil.copytree(source[0], tmp_path / "web")
    plans = [plan(settings, find_shards(folder)) for folder in (source[0], tmp_path / "web")]
    assert plans[0] == plans[1]
    with (tmp_path / "web" / "00003.tar").open("ab") as file:
        file.write(bytes(512))
    Output.open(tmp_path / "out", plans[0])
    with pytest.raises(InputError, match="was started with another input: "):
        Output.open(tmp_path / "out", plan(settings, find_shards(tmp_path / "web")))


def command(module: str, source, pack: Path, output: Path, **more) -> list[str]:
    options = {"input": source[0], "output": output, "face-pack": pack, **more} | {
        name.replace("_", "-"): value for name, value in FILTER.items()
    }
    flags = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    return [sys.executable, "-m", module, *flags]


def processes(output: Path) -> list[int]:
    """Processes whose command line names a folder, and their descendants."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()[1:]]
    found = {int(pid) for pid, _, arguments in rows if str(output) in arguments}
    return sorted(found | {int(pid) for pid, parent, _ in rows if int(parent) in found})


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 20])
def test_resumes_to_the_same_bytes_after_any_kill(undisturbed, source, pack, tmp_path, kills):
    output = tmp_path / "out"
    random = np.random.default_rng(0)
    done: dict[str, int] = {}
    for i in range(kills):
        program = subprocess.Popen(
            command("train.prepare", source, pack, output, workers=2),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Kills some runs at the start, others during the work.
        if i % 3:
            wait_for((output / "shards").is_dir)
        time.sleep(random.uniform(0, 2.5))
        started = processes(output)
        program.send_signal(signal.SIGKILL)
        program.wait()
        wait_for_end(started)
        # Finished shards are not redone.
        for name, made in done.items():
            assert (output / "shards" / name).stat().st_mtime_ns == made
        done = {p.name: p.stat().st_mtime_ns for p in output.glob("shards/*.json")}
    ran = subprocess.run(
        command("train.prepare", source, pack, output), cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    kept = f"kept {source[1]['kept']} of {source[1].total()} images ("
    assert ran.stdout.splitlines()[0].startswith(kept)
    assert bytes_of(output) == bytes_of(undisturbed)


@pytest.mark.slow
def test_two_concurrent_runs_give_the_same_bytes(undisturbed, source, pack, tmp_path):
    output = tmp_path / "out"
    started = [
        subprocess.Popen(
            command("train.prepare", source, pack, output),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for ran in started:
        _, stderr = ran.communicate()
        assert ran.returncode == 0, stderr
    assert bytes_of(output) == bytes_of(undisturbed)


def test_interrupt_ends_all_processes_with_one_line(source, pack, tmp_path):
    output = tmp_path / "out"
    # Like a terminal's Ctrl-C, which the children of a background shell would ignore.
    listening = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    module = "runpy.run_module('train.prepare', run_name='__main__')"
    code = f"import runpy, signal; {listening}; {module}"
    python, _, _, *options = command("train.prepare", source, pack, output, workers=2)
    ran = subprocess.Popen(
        [python, "-c", code, *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for((output / ".scratch").is_dir)
    time.sleep(1)
    started = processes(output)
    os.killpg(ran.pid, signal.SIGINT)
    _, stderr = ran.communicate()
    assert (ran.returncode, stderr.splitlines()) == (130, ["train.prepare: error: interrupted"])
    wait_for_end(started)


def wait_for_end(processes: list[int]) -> None:
    wait_for(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_what_is_lost_or_cut_is_made_again(undisturbed, source, settings, tmp_path):
    wanted = bytes_of(undisturbed)
    records = next((undisturbed / "instantid_faces" / "1.0.0").glob("*array_record-00001-of*"))
    damages = (
        (records.relative_to(undisturbed), None),
        (records.relative_to(undisturbed), b"cut"),
        (Path("shards/00001.npz"), b""),
        (Path("shards/00001.json"), b"{}"),
    )
    for place, content in damages:
        output = shutil.copytree(undisturbed, tmp_path / "out", symlinks=True)
        # Without a manifest it is a preparation that was interrupted.
        if content is not None:
            (output / "manifest.json").unlink()
            (output / place).write_bytes(content)
        else:
            (output / place).unlink()
        prepare(Options(input=source[0], output=output, settings=settings))
        assert bytes_of(output) == wanted, (place, content)
        shutil.rmtree(output)
