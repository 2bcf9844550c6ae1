"""The memory of the compiled step, from shapes only."""

import dataclasses

import jax
import pytest

from instantid_jax.components import network
from instantid_jax.sharding import training_mesh
from tests.train import small
from train.compiled_step import compiled_step, step_shapes
from train.config import ModelConfig, TrainConfig
from train.data.config import DataConfig, DatasetShare
from train.step import RematPolicy, StepConfig

SIZE = (64, 64)
# As deep as SDXL's stacks, so that saved activations outweigh those of a single layer.
UNET = small.UNET | {"transformer_layers_per_block": [1, 10]}


def temporary_bytes(remat: RematPolicy) -> int:
    """Temporaries of a step with scanned stacks; elsewhere XLA's CPU compiler undoes remat."""
    config = TrainConfig(
        model=ModelConfig(sdxl="not read"),
        data=DataConfig(
            datasets=(DatasetShare(folder="not read"),),
            buckets=(SIZE,),
            cached_latents=True,
            crop="center",
        ),
        global_batch_size=16,
        steps=1,
        step=StepConfig(dtype="float32", remat=remat, scan=True),
    )
    networks = dataclasses.replace(
        small.networks(), unet=network("unet", UNET), controlnet=network("controlnet", UNET)
    ).stacked()
    mesh = training_mesh((1, 1, 1), jax.devices()[:1])
    shapes = step_shapes(config, networks, mesh, SIZE)
    lowered = compiled_step(config, networks, mesh).lower(*shapes)
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_full_remat_reduces_temporaries():
    assert temporary_bytes("full") < 0.6 * temporary_bytes("none")
