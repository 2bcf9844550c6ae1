"""`instantid warmup`: afterwards `generate` finds all its programs among the kept ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_later_process_compiles_nothing(cache, weights, face_file, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "XLA_FLAGS": ""}

    def instantid(*arguments) -> list[str]:
        code = "from instantid_jax.cli import main; main()"
        ran = subprocess.run(
            [sys.executable, "-c", code, *map(str, (*arguments, *weights))],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()

    def kept() -> set[str]:
        return {path.name for path in (cache / "instantid_jax" / "xla").glob("*-cache")}

    asked = ("--num-images-per-prompt", 2, "--scheduler", "ddim", "--eta", 0.5, "--clip-skip", 1)
    one, two = instantid("warmup", "--sizes", 64, 128, "--chunks", 1, 2, *asked)
    assert one.startswith("64 x 128, 2 images at a time: ")
    assert two.startswith("64 x 128, 2 images at a time, 2 chunks: ")
    warm = kept()
    assert len(warm) > 5
    size = ("--height", 64, "--width", 128, "--num-inference-steps", 3)
    person = ("--face", face_file, "--prompt", "snow", "--output", tmp_path / "o.png")
    person += ("--negative-prompt", "rain")
    assert len(instantid("generate", *person, *size, *asked)) == 2
    long = ("--negative-prompt", "(rain:1.5) BREAK mist")
    assert len(instantid("generate", *person, *long, *size, *asked)) == 2
    assert kept() == warm


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", 64, 100), "100"),
        (("--sizes", 64, 128, "--chunks", 5), "chunks=5: expected 1 to 4"),
        (("--sizes", 64, 128, "--num-images-per-prompt", 0), "num_images_per_prompt"),
    ],
)
def test_impossible_sizes_are_rejected_before_loading(run, arguments, message):
    ran = run("warmup", *arguments)
    assert ran.status == 2 and message in ran.err[-1] and "Traceback" not in "".join(ran.err)
