"""Prepares thousands of drawn portraits with the miniature's face pack, and trains on them."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from miniature.drawing.scene import random_scene
from miniature.portraits import draw_deserted, draw_random
from tests.train import training_process
from tests.train.prepare import web

ROOT = Path(__file__).parents[3]
PACK = ROOT / "instantid_jax" / "embedded" / "faces"
SIZE = (160, 160)
# Number of drawings; each is used in several variants.
PORTRAITS, CUTS = 180, 24


@functools.cache
def drawn(number: int) -> np.ndarray:
    return np.asarray(draw_random(number, SIZE).image)


@functools.cache
def deserted(number: int) -> np.ndarray:
    return np.asarray(draw_deserted(random_scene(np.random.default_rng(number)), SIZE))


def portrait(number: int) -> np.ndarray:
    cut = number // PORTRAITS % CUTS
    pixels = drawn(number % PORTRAITS)[cut % 6 :, cut // 6 :]
    return np.ascontiguousarray(pixels)


KINDS = web.kinds_of(
    one=portrait,
    nobody=lambda n: deserted(n % 30),
    three=lambda n: np.concatenate([drawn((n + i) % PORTRAITS) for i in range(3)], axis=1),
    tiny=lambda n: drawn(n % PORTRAITS)[::4, ::4],
)


@pytest.mark.slow
def test_accounts_for_thousands_of_images_and_trains_on_the_kept(tmp_path):
    # 100 per tar, so that the tars start with different kinds.
    expected = web.write_tars(tmp_path / "web", 36, 100, kinds=KINDS)
    output = tmp_path / "faces"
    command = (
        *("--input", tmp_path / "web", "--output", output, "--face-pack", PACK, "--workers", 2),
        *("--min-side", 128, "--min-sharpness", 0),
    )
    ran = subprocess.run(
        [sys.executable, "-m", "train.prepare", *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    manifest = json.loads((output / "manifest.json").read_text())
    print(json.dumps({name: manifest[name] for name in ("seen", "kept", "rejected")}))
    assert manifest["seen"] == expected.total() > 3500
    assert manifest["kept"] + sum(manifest["rejected"].values()) == manifest["seen"]
    kept = expected.pop("kept")
    # The face pack makes mistakes, but the count of files that are not images is exact.
    for reason in ("unreadable image", "image too small", "truncated tar member"):
        assert manifest["rejected"][reason] == expected[reason]
    assert abs(manifest["kept"] - kept) < 0.02 * kept
    several = manifest["rejected"]["several faces"]
    assert abs(several - expected["several faces"]) < 0.1 * expected["several faces"]

    run = tmp_path / "run"
    trained = training_process.start(run, "--steps", 6, "--data.datasets.0.folder", output)
    assert training_process.end(trained) == 0
    losses = [line["loss"] for line in training_process.metrics(run)]
    assert len(losses) == 6 and np.isfinite(losses).all()
