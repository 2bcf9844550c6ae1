"""Any text in place of any path or prompt: a program ends well, or with one line and status 2."""

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from convert.__main__ import main as convert
from instantid_jax import InstantIDPipeline, cli
from instantid_jax.image_files import save_image
from tests.cli.conftest import Recorder
from tests.pipeline import small_model
from train.__main__ import main as train
from train.data.build import main as build
from train.data.latents import main as latents
from train.prepare.__main__ import main as prepare

ROOT = Path(__file__).parents[1]
# Control characters, half characters, right-to-left and wide ones; long names; what means something
# to a shell, a file system or the hub.
TEXTS = st.one_of(
    st.text(st.characters(), max_size=12),
    st.sampled_from(
        [
            *("", ".", "..", "-", "--", "~", "~nobody/x", "*", "a b", "a\nb", "\r\u2028", "a/b"),
            *("a:b", "@", "a@b", "owner/name", "owner/name@main", "[", "{}", "\udce9.png"),
            *("é.png", "x" * 300, "x/" * 3000),
        ]
    ),
)
# Relative, so that nothing outside the test's folder is written.
OUTPUTS = TEXTS.filter(lambda text: not text.startswith(("/", "~")) and ".." not in text)
IMAGES = OUTPUTS | OUTPUTS.map(lambda text: f"{text}.png")

PROGRAMS = {
    "generate prompt": (cli.main, ("generate", "--face=me.npz", "--output=o.png", "--prompt={}")),
    "generate negative": (
        cli.main,
        ("generate", "--face=me.npz", "--output=o.png", "--prompt=x", "--negative-prompt={}"),
    ),
    "generate face": (cli.main, ("generate", "--face={}", "--prompt=x", "--output=o.png")),
    "generate pose": (
        cli.main,
        ("generate", "--face=me.npz", "--pose={}", "--prompt=x", "--output=o.png"),
    ),
    "generate like": (cli.main, ("generate", "--like={}", "--output=o.png")),
    "generate pack": (
        cli.main,
        ("generate", "--face=a.png", "--face-pack={}", "--prompt=x", "--output=o.png"),
    ),
    "generate output": (cli.main, ("generate", "--face=me.npz", "--prompt=x", "--output={}")),
    "generate mesh": (cli.main, ("warmup", "--sizes", "64", "64", "--mesh={}")),
    "demo prompts": (cli.main, ("demo", "--output=o.png", "--prompts={}")),
    "embed photos": (cli.main, ("embed", "--output=faces", "{}")),
    "embed output": (cli.main, ("embed", "photos", "--face-pack=nowhere", "--output={}")),
    "inspect": (convert, ("inspect", "{}")),
    "to-jax sdxl": (convert, ("to-jax", "--sdxl={}", "--instantid=x", "--output=out")),
    "to-jax output": (convert, ("to-jax", "--sdxl=photos", "--instantid=x", "--output={}")),
    "to-torch": (convert, ("to-torch", "--output=out", "{}")),
    "to-torch output": (convert, ("to-torch", "photos", "--output={}")),
    "verify": (convert, ("verify", "--sdxl=photos", "--instantid={}")),
    "train config": (train, ("{}", "--workdir=run")),
    "train workdir": (train, ("photos/config.py", "--steps=0", "--workdir={}")),
    "train sdxl": (train, (f"{ROOT}/configs/gpu_80gb.py", "--workdir=run", "--model.sdxl={}")),
    "prepare input": (prepare, ("--input={}", "--face-pack=nowhere", "--output=out")),
    "prepare output": (prepare, ("--input=photos", "--face-pack=nowhere", "--output={}")),
    "prepare pack": (prepare, ("--input=photos", "--face-pack={}", "--output=out")),
    "build input": (build, ("--input={}", "--output=out")),
    "build faces": (build, ("--input=photos", "--faces={}", "--output=out")),
    "build output": (build, ("--input=photos", "--output={}")),
    "latents": (latents, ("--sdxl=photos", "{}")),
    "latents sdxl": (latents, ("photos", "--sdxl={}")),
}
IMAGE_OUTPUTS = ("generate output",)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a photo, a face and a configuration; models are not loaded."""
    fake = Recorder(lambda i: Image.new("RGB", (128, 128)))
    monkeypatch.setattr(InstantIDPipeline, "load", fake.load)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    save_image(np.zeros((8, 8, 3), np.uint8), tmp_path / "photos" / "a.png")
    shutil.copy(ROOT / "tests" / "train" / "tiny_config.py", tmp_path / "photos" / "config.py")
    small_model.person(0).save(tmp_path / "me.npz")
    return tmp_path


@pytest.mark.parametrize("program", PROGRAMS)
def test_any_text_ends_in_status_0_or_in_one_line(place, capfd, program):
    main, template = PROGRAMS[program]
    texts = IMAGES if program in IMAGE_OUTPUTS else OUTPUTS if "output" in program else TEXTS
    before = everything(place)

    @given(texts)
    @settings(
        max_examples=6,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    def ends_well(text):
        if text.startswith("-") and "{}" in template:
            text = f"./{text}"  # It would be a flag.
        capfd.readouterr()
        status = 0
        try:
            main([part.replace("{}", text) for part in template])
        except SystemExit as ended:
            status = ended.code or 0
        _, err = capfd.readouterr()
        assert status in (0, 2), (status, err)
        made = everything(place) - before
        if status == 2:
            assert len(err.splitlines()) == 1 and "error: " in err, err
            assert not made
        for path in sorted(made, reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()

    ends_well()


def everything(folder: Path) -> set[Path]:
    return {
        Path(parent, name)
        for parent, folders, files in os.walk(folder)
        for name in itertools.chain(folders, files)
    }
