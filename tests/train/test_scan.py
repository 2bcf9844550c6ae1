"""A run whose stacks of blocks are loops is the run without loops."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image

from instantid_jax import sharding
from instantid_jax.cache import cache_folder
from instantid_jax.components import component_shapes, network
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore_weights, stored_weights
from instantid_jax.runs.trained_lora import merged
from instantid_jax.stacks import stack, unstack
from tests.parity.reference import relative_error
from tests.train import small, tiny_config, training_process
from train import random_model
from train.distillation.factors import init_factors
from train.loop import train
from train.start import StartConfig
from train.validation.config import ValidationConfig

STEPS = 2
UNET = small.UNET | {"transformer_layers_per_block": [1, 2]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of a run without loops and of one with them."""
    settings = tiny_config.SETTINGS | {"unet": UNET}
    with mock.patch.object(random_model, "SETTINGS", settings):
        model = str(random_model.random_model(cache_folder() / "stacks"))
    folders = []
    for scan in (False, True):
        made = tiny_config.get_config()
        folder = made.data.datasets[0].folder
        config = dataclasses.replace(
            made,
            model=dataclasses.replace(made.model, sdxl=model),
            global_batch_size=8,
            steps=STEPS,
            mesh=dataclasses.replace(made.mesh, data=-1, fsdp=2, frozen="sharded"),
            step=dataclasses.replace(made.step, scan=scan),
            optimizer=dataclasses.replace(made.optimizer, ema_decay=0.5),
            validation=ValidationConfig(dataset=folder, every=STEPS, records=1, size=(64, 64)),
        )
        folders.append(tmp_path_factory.mktemp("run"))
        # The smallest parameters of full networks are larger than the largest of these.
        with mock.patch.object(sharding, "SMALLEST_SHARDED", 256):
            assert train(config, folders[-1], StartConfig()) == 0
    return folders


@pytest.mark.slow
def test_losses_weights_and_images_are_the_same(runs):
    losses = [
        [line["loss"] for line in training_process.metrics(folder) if "loss" in line]
        for folder in runs
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    plain, looped = (restore_weights(RunFolder(folder), raw=True) for folder in runs)
    assert plain.keys() == looped.keys() == stored_weights(RunFolder(runs[1])).shapes.keys()
    # As one vector: Adam turns the rounding of single tiny gradients into whole updates.
    whole = (np.concatenate([np.ravel(each[name]) for name in plain]) for each in (looped, plain))
    assert relative_error(*whole) < 1e-5
    images = [
        np.asarray(Image.open(folder / "samples" / f"{STEPS:08d}.png"), int) for folder in runs
    ]
    assert np.abs(np.subtract(*images)).max() <= 2


@pytest.mark.slow
def test_its_checkpoints_hold_stacks(runs):
    names = training_process.state(runs[1], STEPS)
    assert any("transformer_blocks.stack." in name for name in names)
    assert not any("transformer_blocks.0." in name for name in names)


def test_a_loras_factors_are_stacked_with_the_weights():
    unet = network("unet", UNET)
    looped = dataclasses.replace(unet, stacked=True)
    factors = init_factors(unet, 2, jax.random.key(0))
    factors = {name: value + 0.1 for name, value in factors.items()}
    assert init_factors(looped, 2, jax.random.key(0)).keys() == stack(dict(factors)).keys()
    own = component_shapes("unet", unet)
    weights = {name: value for name, value in unet.init(jax.random.key(1)).items() if name in own}
    plain = merged(unet, weights, factors)
    again = unstack(merged(looped, stack(dict(weights)), stack(dict(factors))))
    assert again.keys() == plain.keys()
    changed = 0
    for name, value in plain.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-5, atol=1e-7)
        changed += bool(np.any(value != weights[name]))
    assert changed == len(factors) / 2
