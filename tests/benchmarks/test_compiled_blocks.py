"""Bounds the memory and operations of blocks compiled for a TPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# (bytes of temporaries, FLOPs) by libtpu 0.0.42. The logits of one layer of 4096 positions would
# take 1342 MB if XLA materialized them.
KEPT = {
    "down_blocks.0.resnets.0": (89_935_360, 128_397_164_544),
    "down_blocks.0.downsamplers.0": (0, 16_991_846_400),
    "down_blocks.1.attentions.0": (86_885_888, 435_057_049_600),
    "mid_block.attentions.0": (28_853_248, 1_349_157_126_144),
    "up_blocks.1.upsamplers.0": (44_693_504, 255_615_303_680),
}
ROOT = Path(__file__).parents[2]
# `make test-slow` installs it there.
LIBTPU = Path(sys.prefix, "libtpu")
QUIET = {
    # Keeps libtpu from looking for the other chips of a slice and from verbose logging.
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    # Another process may be compiling as well.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@pytest.mark.slow
@pytest.mark.skipif(not (LIBTPU / "libtpu").is_dir(), reason="libtpu is for Linux on x86_64")
def test_blocks_take_no_more_memory_or_operations():
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.compiled_blocks"],
        env=os.environ | QUIET | {"PYTHONPATH": f"{ROOT}:{LIBTPU}"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(ran.stdout)
    assert found.keys() == KEPT.keys()
    for path, each in found.items():
        temp_bytes, operations = KEPT[path]
        assert each["temp_bytes"] <= 1.05 * temp_bytes, (path, each)
        assert each["flops"] <= 1.01 * operations, (path, each)
        # The count by hand covers only matrix products and convolutions.
        assert 1 <= each["flops"] / each["flops_by_hand"] < 1.15, (path, each)
