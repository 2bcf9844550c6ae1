"""The count of sampling's memory, with networks small enough for a CPU."""

import jax
import pytest

from benchmarks.sampling_memory import measure, part_bytes, peaks
from tests.benchmarks.test_compiled_sampling import networks

__all__ = ["networks"]


@pytest.mark.slow
def test_decoding_takes_more_than_encoding_and_grows_with_the_image(networks):
    device = jax.devices()[0]
    small, large, encoded, tile = (
        measure(networks, device, program, side)["bytes"]
        for program, side in (
            ("decode", 64),
            ("decode", 128),
            ("encode", 128),
            ("decode_tile", 64),
        )
    )
    assert 2 * small < large and encoded < large
    # A tile is returned in float32.
    assert tile < 2 * small


@pytest.mark.slow
def test_a_step_counts_no_weights(networks):
    counted = measure(networks, jax.devices()[0], "step", 64)["bytes"]
    assert 0 < counted < 2**28
    parts = part_bytes(networks)
    assert parts["vae"] == 2 * sum(leaf.size for leaf in networks.vae.shapes.values())


def test_offloading_leaves_out_what_a_stage_does_not_use():
    weights = {
        "unet": 1,
        "image_proj": 10,
        "vae": 100,
        "text_encoder": 1000,
        "text_encoder_2": 10_000,
        "controlnets.0": 100_000,
    }
    assert peaks(weights, 5, 7, False) == {"sample": 111_116, "decode": 111_118}
    assert peaks(weights, 5, 7, True) == {"sample": 100_016, "decode": 118}
