"""All configurations build; states and batches of full-size ones shard evenly on their meshes."""

import functools
import importlib
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh

from benchmarks.compiled_step import sdxl_networks
from miniature.base.architecture import SCHEDULER, UNET, VAE
from train.compiled_step import batch_shapes, state_shapes

# Number of devices of each; the paper's two configurations are for its 48 GPUs.
DEVICES = {
    "instantid_sdxl": 48,
    "instantid_sdxl_512": 48,
    "tpu_v5e_256": 256,
    "tpu_v5p_128": 64,
    "tpu_v6e_256": 256,
    "gpu_h200_8": 8,
    "gpu_80gb": 1,
    "gpu_24gb": 1,
    "finetune_lora": 1,
}
# Resampler, ID keys and values, IdentityNet; the same in the trainers that reproduced the paper.
TRAINABLES = 1_673_779_984
# The first two.
ADAPTER = 422_765_824
# 16 rows and columns of each of their matrices.
LORA = 8_724_480

networks = functools.cache(sdxl_networks)


def build(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    data, fsdp, tensor = config.mesh.shape
    if data == -1:
        data = DEVICES[name] // (fsdp * tensor)
    return config, AbstractMesh((data, fsdp, tensor), ("data", "fsdp", "tensor"))


@pytest.mark.parametrize("name", DEVICES)
def test_mesh_uses_all_devices_and_divides_the_batch(name):
    config, mesh = build(name)
    assert mesh.size == DEVICES[name]
    config.check_devices(mesh.shape["data"], mesh.shape["fsdp"])


@pytest.mark.parametrize("name", DEVICES)
def test_state_shards_evenly(name):
    config, mesh = build(name)
    state = state_shapes(config, networks(config), mesh)
    expected = {"gpu_24gb": ADAPTER, "finetune_lora": LORA}.get(name, TRAINABLES)
    assert sum(leaf.size for leaf in state.params.values()) == expected
    assert bool(state.ema) == (config.optimizer.ema_decay is not None)
    for leaf in jax.tree.leaves(state):
        leaf.sharding.shard_shape(leaf.shape)


@pytest.mark.parametrize("name", DEVICES)
def test_batches_of_every_bucket_shard_evenly(name):
    config, mesh = build(name)
    for size in config.data.buckets:
        for leaf in batch_shapes(config, networks(config), mesh, size).values():
            rows = leaf.sharding.shard_shape(leaf.shape)[0]
            assert rows * mesh.shape["data"] * mesh.shape["fsdp"] == config.global_batch_size


def test_miniature_config_fits_its_base_model():
    config = importlib.import_module("configs.miniature").get_config()
    assert config.model.resampler.output_dim == UNET["cross_attention_dim"]
    assert config.objective.prediction_type == SCHEDULER["prediction_type"]
    assert (VAE["sample_size"], VAE["sample_size"]) in config.data.buckets
    assert config.optimizer.decay_steps == config.steps
    config.check_devices(1, 1)
    config.check_best()
    assert Path(config.validation.recognizer).is_file()


def test_the_finetune_in_miniature_takes_what_the_embedded_model_was_trained_with():
    config, small = (
        importlib.import_module(f"configs.{name}").get_config()
        for name in ("finetune_miniature", "miniature")
    )
    full = importlib.import_module("configs.finetune_lora").get_config()
    assert config.objective == small.objective
    assert (config.model.trainable, config.model.lora_rank) == ("adapter", full.model.lora_rank)
    config.model.check_frozen()
    config.check_devices(1, 1)
