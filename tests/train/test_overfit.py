"""Training reduces the loss, through both the face and the keypoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instantid_jax.prompt import PromptTokenizer
from tests.train import small
from train.data.batches import Batches
from train.data.config import DataConfig, DatasetShare
from train.data.drawn import drawn_dataset
from train.objective import ObjectiveConfig
from train.optimizer import OptimizerConfig, make_optimizer
from train.random_model import random_model
from train.state import init_trainables
from train.step import StepConfig, loss_and_gradients, micro_batch_loss

RECORDS = 64
STEPS = 250
OPTIMIZER = OptimizerConfig(learning_rate=2e-3, warmup_steps=10, weight_decay=0.0)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """All 64 drawn faces; one key draws their noise and timesteps."""
    cache = tmp_path_factory.mktemp("cache")
    folder = random_model(cache)
    tokenizers = [
        PromptTokenizer(folder / name, positions=77, vocabulary=514)
        for name in ("tokenizer", "tokenizer_2")
    ]
    datasets = (DatasetShare(folder=str(drawn_dataset(cache))),)
    config = DataConfig(datasets=datasets, buckets=((64, 64),), crop="center")
    made = Batches(config, tokenizers, RECORDS, seed=0).batch(0)
    assert len(set(made.pop("example_ids"))) == RECORDS
    return jax.tree.map(jnp.asarray, made)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def learn(params, opt_state, constants, batch):
    loss, gradients = evaluate(params, constants, batch)
    updates, opt_state = make_optimizer(OPTIMIZER, params).update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


@jax.jit
def evaluate(params, constants, batch):
    each, gradients = loss_and_gradients(
        micro_batch_loss,
        small.networks(),
        ObjectiveConfig(),
        StepConfig(dtype="float32", remat="none"),
        params,
        constants,
        batch,
        jnp.arange(RECORDS, dtype=jnp.uint32),
        jax.random.key(5),
    )
    return each["loss"].mean(), gradients


@pytest.mark.slow
def test_loss_falls_and_rises_without_the_face_or_the_keypoints(batch):
    constants = small.constants()
    init = functools.partial(init_trainables, small.networks(), constants.frozen["unet"])
    # With zero ID values it is the base model.
    base, _ = evaluate(init(jax.random.key(1), zero_id_values=True), constants, batch)
    params = init(jax.random.key(1))
    opt_state = make_optimizer(OPTIMIZER, params).init(params)
    for _ in range(STEPS):
        params, opt_state, _ = learn(params, opt_state, constants, batch)
    loss, _ = evaluate(params, constants, batch)
    assert loss <= 0.7 * base
    faces = dict(batch, id_embeds=jnp.roll(batch["id_embeds"], 1, axis=0))
    points = dict(batch, keypoint_images=jnp.zeros_like(batch["keypoint_images"]))
    swapped, blanked = (evaluate(params, constants, other)[0] for other in (faces, points))
    assert swapped >= 1.1 * loss
    assert blanked >= 1.1 * loss
    assert np.isfinite([swapped, blanked]).all()
