"""The loss of validation records: a fixed function of the weights, whatever the mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax import sharding
from instantid_jax.sharding import replicated, shard_params, training_mesh
from tests.train import small, tiny_config
from train.config import MeshConfig
from train.model import frozen_sharding
from train.objective import ObjectiveConfig, draw, encode_batch, losses, predict
from train.validation.config import ValidationConfig
from train.validation.loss import BINS, ValidationLoss

COUNT = 3


def records():
    """Arrays of three records with pixels."""
    given = small.batch(COUNT)
    pixels = np.random.default_rng(1).integers(0, 256, given["keypoint_images"].shape)
    del given["latent_moments"], given["example_crc32"], given["face_share"]
    return given | {"images": pixels.astype(np.uint8)}


@functools.cache
def measured_on(shape, dropped=0.0, frozen="replicated"):
    """The numbers on a mesh, and the function."""
    made = tiny_config.get_config()
    made = dataclasses.replace(
        made,
        global_batch_size=2,
        mesh=MeshConfig(frozen=frozen),
        validation=ValidationConfig(dataset="unused", seed=5),
        objective=ObjectiveConfig(drop_id=dropped, drop_text=dropped),
    )
    devices = jax.devices()[: int(np.prod(shape))]
    mesh = training_mesh(shape, devices)
    loss = ValidationLoss(made, small.networks(), mesh, records())
    constants, params = small.constants(), small.trainables()
    places = jax.tree.map(lambda _: replicated(mesh), constants)
    places = places._replace(frozen=frozen_sharding(small.networks(), made, mesh))
    constants = jax.device_put(constants, places)
    params = jax.device_put(params, shard_params(params, mesh))
    return loss.measure(params, constants), loss, constants, params


def test_mean_is_that_of_the_ranges_of_timesteps():
    numbers, *_ = measured_on((1, 1, 1))
    assert list(numbers) == ["loss", *(f"loss_t_to_{t}" for t in (250, 500, 750, 1000))]
    assert numbers["loss"] == pytest.approx(np.mean(list(numbers.values())[1:]))
    assert len(set(numbers.values())) == BINS + 1


def test_the_same_weights_have_the_same_loss_and_others_another():
    numbers, loss, constants, params = measured_on((1, 1, 1))
    assert loss.measure(params, constants) == numbers
    other = {name: value * 1.1 for name, value in params.items()}
    assert loss.measure(other, constants)["loss"] != numbers["loss"]


def test_nothing_is_dropped():
    assert measured_on((1, 1, 1), dropped=0.5)[0] == measured_on((1, 1, 1))[0]


def test_it_is_the_objective_of_training():
    """The same from the parts of the objective, one record and timestep at a time."""
    numbers, _, constants, params = measured_on((1, 1, 1))
    networks, objective, given = small.networks(), ObjectiveConfig(), records()
    alphas, key = constants.alphas_cumprod, jax.random.key(5)

    @jax.jit
    def one(batch, number, bin_number, timestep):
        example, at = jnp.asarray([number], jnp.uint32), jnp.asarray([timestep], jnp.int32)
        draws = draw(objective, jax.random.fold_in(key, bin_number), example, (8, 8, 4), alphas)
        draws = draws._replace(timesteps=at)
        latents, conditions = encode_batch(
            networks, constants.frozen, batch, draws, constants.empty_prompt
        )
        signal, deviation = jnp.sqrt(alphas[timestep]), jnp.sqrt(1 - alphas[timestep])
        noisy = signal * latents + deviation * draws.noise
        prediction = predict(networks, constants.frozen, params, noisy, at, conditions)
        return losses(objective, alphas, prediction, latents, draws.noise, at)[0]

    found = [
        [
            one({n: v[[r]] for n, v in given.items()}, r, b, int(250 * (b + (r + 0.5) / COUNT)))
            for r in range(COUNT)
        ]
        for b in range(BINS)
    ]
    np.testing.assert_allclose(list(numbers.values())[1:], np.mean(found, axis=1), rtol=1e-4)


def test_other_meshes_agree():
    """Two devices of one row leave a row over, which must not count."""
    numbers, *_ = measured_on((1, 1, 1))
    assert measured_on((2, 1, 1))[0] == pytest.approx(numbers, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 1), (1, 1, 2), (2, 2, 2)], ids=str)
def test_sharded_weights_agree(monkeypatch, shape):
    numbers, *_ = measured_on((1, 1, 1))
    # Otherwise the small networks' layers are not split.
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 256)
    found, _, constants, params = measured_on(shape, frozen="sharded")
    mesh = next(iter(params.values())).sharding.mesh
    axes = {axis for axis in ("fsdp", "tensor") if mesh.shape[axis] > 1}
    for group in (params, constants.frozen["unet"]):
        assert axes == {axis for value in group.values() for axis in value.sharding.spec} - {None}
    assert found == pytest.approx(numbers, rel=1e-5)
