"""Textual inversions: what `inspect` says of them."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file


@pytest.fixture
def inspect(convert):
    def call(file):
        ran = convert("inspect", file)
        assert ran.status == 0, ran
        return ran.out

    return call


def sdxl(rows: int) -> dict[str, np.ndarray]:
    return {"clip_l": np.ones((rows, 768), np.float16), "clip_g": np.ones((rows, 1280), np.float16)}


def test_a_textual_inversion_of_sdxl_is_described(inspect, tmp_path):
    file = tmp_path / "style.safetensors"
    save_file(sdxl(2), file)
    assert inspect(file) == [
        f"{file}: an SDXL textual inversion",
        "  2 tensors, 4,096 parameters, float16, 8.2 kB",
        "  names in prompts: style (2 vectors)",
        "  all values are finite",
        "  usable as --embedding",
    ]


def test_vectors_of_pivotal_tuning_have_names(inspect, tmp_path):
    file = tmp_path / "me_emb.safetensors"
    save_file(sdxl(5), file)
    assert inspect(file)[2] == (
        "  names in prompts: me_emb (5 vectors), <s0> (1 vector), <s1> (1 vector), <s2> (1 vector) "
        "and 2 more"
    )


def test_faults_are_reported(inspect, tmp_path):
    file = tmp_path / "style.safetensors"
    save_file(sdxl(2) | {"clip_g": np.full((3, 1280), np.inf, np.float32)}, file)
    lines = inspect(file)
    assert lines[2].endswith(
        "clip_l has 2 vectors and clip_g 3: expected equally many; fetch the file again"
    )
    assert lines[-2:] == [
        "  1 tensors have non-finite values: clip_g",
        "  not usable as it is",
    ]


def test_a_textual_inversion_of_sd_15_is_of_no_use(inspect, tmp_path):
    file = tmp_path / "negative.pt"
    torch.save({"string_to_param": {"*": torch.ones(2, 768)}, "name": "negative"}, file)
    first, *_, last = inspect(file)
    assert first == f"{file}: an SD 1.x textual inversion, or one for text encoder 1 alone"
    assert last.startswith("  not usable here: not SDXL")
