"""Converting takes little more memory than the largest network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from instantid_jax.weights import sdxl_base
from tests.convert.published import write_published

ROOT = Path(__file__).parents[2]
LIMIT = 1.5
GIBIBYTE = 2**30
# A few wide layers.
WIDE = {
    "block_out_channels": [128, 1344],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 21,
    "cross_attention_dim": 96,
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 64 + 6 * 16,
}


@pytest.fixture
def folder(tmp_path):
    """Emptied afterwards: pytest would keep gigabytes for three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def peak_share(folder, largest):
    """The peak of converting `folder / "in"`, over the largest network's bytes."""
    sources = ("--sdxl", folder / "in", "--instantid", folder / "in")
    arguments = (largest, "to-jax", *sources, "--output", folder / "out")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.convert.memory", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(ran.stdout.splitlines()[-1])


@pytest.mark.slow
def test_of_a_network_of_a_gibibyte(folder):
    sizes = write_published(folder / "in", unet=WIDE, controlnet=WIDE, dtype="float32")
    largest = max(sizes.values())
    assert 0.9 * GIBIBYTE < largest < 1.5 * GIBIBYTE
    share = peak_share(folder, largest)
    # No less, or nothing was measured.
    assert 0.9 < share < LIMIT


@pytest.mark.slow
def test_at_full_size(folder):
    sizes = write_published(
        folder / "in",
        unet=sdxl_base.SETTINGS["unet"] | {"cross_attention_dim": 2048},
        controlnet={},
        dtype="float16",
        resampler={},
        unet_shards=2,
        **{name: sdxl_base.SETTINGS[name] for name in ("vae", "text_encoder", "text_encoder_2")},
    )
    assert sizes["unet"] == 2 * 2_567_463_684
    share = peak_share(folder, sizes["unet"])
    assert 0.9 < share < LIMIT
