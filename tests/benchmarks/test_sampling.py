"""The sampling benchmark with small networks, and its PyTorch networks at full size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.sampling_torch import clip_config
from benchmarks.sizes import FULL

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "kind", "width", "parameters"),
    [
        ("text_encoder", CLIPTextModel, 768, 123_060_480),
        ("text_encoder_2", CLIPTextModelWithProjection, 1280, 694_659_840),
    ],
)
def test_torch_text_encoders_have_sdxls_sizes(name, kind, width, parameters):
    with torch.device("meta"):
        encoder = kind(clip_config(name, FULL[name]))
    assert encoder.config.hidden_size == width
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@pytest.mark.slow
def test_both_sides_generate_images(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.sampling", "--small", "--peer", "torch"],
        cwd=ROOT,
        # Threads that wait for each other are slow next to other tests.
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert [(cell["steps"], cell["guidance"]) for cell in result["cells"]] == [
        (30, True),
        (4, False),
    ]
    for cell in result["cells"]:
        assert cell["ratio"].keys() == {"eager", "torch.compile"}
        assert all(seconds > 0 for seconds in cell["seconds"].values())
    assert 0 < result["cells"][0]["first_image_seconds_warm"]
    modes = [(cell["steps"], cell["mode"]) for cell in result["torch"]["cells"]]
    assert modes == [(s, m) for s in (30, 4) for m in ("eager", "torch.compile")]
