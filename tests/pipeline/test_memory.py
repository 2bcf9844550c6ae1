"""Loading takes little more memory than the weights in the dtype that is computed in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from instantid_jax.weights import sdxl_base
from tests.convert.published import write_published
from tests.convert.test_memory import GIBIBYTE, WIDE

ROOT = Path(__file__).parents[2]
# Share of the weights' bytes, and bytes in addition.
SHARE, EXTRA = 1.2, 0.5e9


@pytest.fixture
def folder(tmp_path):
    """Emptied afterwards: pytest would keep gigabytes for three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def peak_and_weights(folder: Path, dtype: str) -> tuple[int, int]:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.memory", str(folder), dtype],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    peak, weights = map(int, ran.stdout.splitlines()[-1].split())
    return peak, weights


@pytest.mark.slow
def test_of_networks_of_a_gibibyte(folder):
    """Files in float32, computed with in bfloat16: whole copies in float32 would show."""
    wide = WIDE | {"block_out_channels": [128, 1536], "attention_head_dim": 24}
    write_published(folder, unet=wide, controlnet=wide, dtype="float32")
    peak, weights = peak_and_weights(folder, "bfloat16")
    assert 0.9 * GIBIBYTE < weights < 1.5 * GIBIBYTE
    # No less, or nothing was measured.
    assert 0.9 * weights < peak < SHARE * weights + EXTRA


@pytest.mark.slow
def test_at_full_size(folder):
    write_published(
        folder,
        unet=sdxl_base.SETTINGS["unet"] | {"cross_attention_dim": 2048},
        controlnet={},
        dtype="float16",
        resampler={},
        unet_shards=2,
        **{name: sdxl_base.SETTINGS[name] for name in ("vae", "text_encoder", "text_encoder_2")},
    )
    peak, weights = peak_and_weights(folder, "bfloat16")
    assert weights > 9e9
    assert 0.9 * weights < peak < SHARE * weights + EXTRA
