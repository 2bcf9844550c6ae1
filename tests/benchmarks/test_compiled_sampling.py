"""The analysis of a compiled step, with a network small enough for a CPU."""

import pytest

from benchmarks.compiled_sampling import compile_step
from instantid_jax.components import network
from instantid_jax.models.controlnet import settings_like_unet
from instantid_jax.pipeline.programs import Networks
from instantid_jax.sharding import sampling_mesh
from tests.pipeline import small_model


@pytest.fixture(scope="module")
def networks() -> Networks:
    settings = small_model.settings()
    names = ("unet", "vae", "text_encoder", "text_encoder_2", "image_proj")
    made = {name: network(name, settings.get(name, {"output_dim": 96})) for name in names}
    identitynet = network("controlnet", settings_like_unet(settings["unet"]))
    return Networks(controlnets=(identitynet,), **made)


def test_all_weights_are_resident(networks):
    """Includes weights used only outside the step, such as those of the text's keys and values."""
    found = compile_step(networks, sampling_mesh(), 1, (64, 64), guidance=True)
    parts = (*networks.controlnets, *(n for n in vars(networks).values() if hasattr(n, "shapes")))
    weights = sum(2 * leaf.size for part in parts for leaf in part.shapes.values())
    assert 0 < found["hbm_bytes"] - found["temp_bytes"] - weights < 1e6
    assert found["flops_by_hand"] > 1e6 and found["collective_bytes"] == 0
