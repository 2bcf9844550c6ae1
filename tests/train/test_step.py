"""Properties of the training step, on eight virtual devices."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from instantid_jax.embedded import FACE_PACK
from instantid_jax.params import cast
from instantid_jax.sharding import batch_sharding, replicated, shard_params, training_mesh
from tests.parity.reference import relative_error
from tests.train import small
from train.identity.onnx_network import read_recognizer
from train.objective import ObjectiveConfig, draw, encode_batch, predict
from train.optimizer import OptimizerConfig
from train.parallel import on_mesh
from train.state import init_state, init_trainables, state_sharding, trainable_shapes
from train.step import (
    StepConfig,
    loss_and_gradients,
    micro_batch_loss,
    remat_wrapper,
    train_step,
)

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=0, ema_decay=0.9)
FLOAT32 = StepConfig(dtype="float32", remat="none")
FOUR_MICRO_BATCHES = dataclasses.replace(FLOAT32, micro_batches=4)


@pytest.fixture(scope="module")
def params():
    init = jax.jit(functools.partial(init_trainables, small.networks()))
    fresh = init(small.frozen()["unet"], jax.random.key(1))
    # Zero convolutions would hide IdentityNet's effect.
    random = np.random.default_rng(2)
    return {
        name: value if np.any(value) else 0.1 * random.standard_normal(value.shape, np.float32)
        for name, value in fresh.items()
    }


@functools.cache
def compiled(step: StepConfig, mesh, frozen, objective=ObjectiveConfig()):
    """The step of a configuration on one device or a mesh, compiled once for all tests."""
    networks = small.networks()
    if objective.identity_weight:
        networks = dataclasses.replace(networks, recognizer=recognizer()[0])
    shapes = trainable_shapes(networks)
    gradients_of = functools.partial(
        loss_and_gradients, micro_batch_loss, networks, objective, step
    )
    if mesh is None:
        return jax.jit(functools.partial(train_step, gradients_of, OPTIMIZER, step))
    specs = jax.tree.map(lambda place: place.spec, frozen_places(mesh, frozen))
    if objective.identity_weight:
        specs["recognizer"] = dict.fromkeys(recognizer()[1], PartitionSpec())
    gradients_of = on_mesh(gradients_of, mesh, params=shapes, frozen=specs)
    function = functools.partial(train_step, gradients_of, OPTIMIZER, step)
    state = jax.eval_shape(functools.partial(init_state, OPTIMIZER), shapes)
    return jax.jit(function, out_shardings=(state_sharding(state, mesh), replicated(mesh)))


def frozen_places(mesh, frozen):
    if frozen == "sharded":
        return {name: shard_params(params, mesh) for name, params in small.frozen().items()}
    return jax.tree.map(lambda _: replicated(mesh), small.frozen())


@functools.cache
def recognizer():
    """The shipped recognizer and its parameters."""
    network, load = read_recognizer(FACE_PACK / "recogniser.onnx")
    return network, load(jnp.dtype("float32"))


def with_recognizer(constants):
    return constants._replace(frozen=constants.frozen | {"recognizer": recognizer()[1]})


def start(params):
    return init_state(OPTIMIZER, params)


def run(params, step=FLOAT32, *, mesh=None, frozen="replicated", steps=6, rows=8):
    """Returns the losses and the last state."""
    constants, state, place = small.constants(step.dtype), start(params), jnp.asarray
    if mesh is not None:
        state = jax.device_put(state, state_sharding(state, mesh))
        places = jax.tree.map(lambda _: replicated(mesh), constants)
        places = places._replace(frozen=frozen_places(mesh, frozen))
        constants = jax.device_put(constants, places)
        place = functools.partial(jax.device_put, device=batch_sharding(mesh))
    losses = []
    for i in range(steps):
        batch = {name: place(value) for name, value in small.batch(rows, seed=i).items()}
        state, metrics = compiled(step, mesh, frozen)(state, constants, batch, np.uint32(7))
        losses.append(float(metrics["loss"]))
    return np.array(losses), state


@pytest.fixture(scope="module")
def alone(params):
    return run(params)


# Meshes of eight and of fewer devices; each takes minutes to compile.
SHAPES = [
    (data, fsdp, count // data // fsdp)
    for count in (8, 4, 2)
    for data in (1, 2, 4, 8)
    for fsdp in (1, 2, 4, 8)
    if count % (data * fsdp) == 0
]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_are_the_same_on_a_mesh(params, alone, shape):
    mesh = training_mesh(shape, jax.devices()[: math.prod(shape)])
    losses, _ = run(params, mesh=mesh)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)


@pytest.mark.slow
def test_losses_are_the_same_with_a_sharded_base(params, alone):
    mesh = training_mesh((2, 2, 1), jax.devices()[:4])
    losses, _ = run(params, FLOAT32, mesh=mesh, frozen="sharded", steps=3)
    np.testing.assert_allclose(losses, alone[0][:3], rtol=1e-5)


def test_large_parameters_and_their_moments_are_sharded(params):
    state = start(params)
    sharding = state_sharding(state, training_mesh((2, 4, 1)))
    name = max(params, key=lambda name: params[name].size)
    placed = jax.device_put(state.params[name], sharding.params[name])
    assert placed.addressable_shards[0].data.size * 4 == placed.size
    assert sharding.opt_state[1][0].mu[name] == sharding.params[name]


@pytest.mark.slow
def test_accumulation_equals_one_batch(params, alone):
    losses, state = run(params, FOUR_MICRO_BATCHES, steps=3)
    np.testing.assert_allclose(losses, alone[0][:3], rtol=1e-5)
    _, alone_state = run(params, steps=3)
    whole, parts = (
        np.concatenate([np.ravel(s.ema[n]) for n in params]) for s in (alone_state, state)
    )
    assert relative_error(parts, whole) < 1e-5


@pytest.mark.slow
def test_temporaries_do_not_grow_with_the_number_of_micro_batches(params):
    """Micro-batches have the same size; the growing batch of images is 2 % of all memory."""
    sizes = {}
    for count in (2, 4):
        step = dataclasses.replace(FLOAT32, micro_batches=count)
        batch = small.batch(4 * count, side=128)
        lowered = compiled(step, None, "replicated").lower(
            start(params), small.constants(), batch, np.uint32(7)
        )
        memory = lowered.compile().memory_analysis()
        sizes[count] = memory.temp_size_in_bytes
    assert sizes[4] < 1.04 * sizes[2]


def residual_bytes(params, remat):
    """Bytes saved between forward and backward pass, except weights and inputs."""
    batch, constants = small.batch(2, side=128), small.constants()
    dtype = jnp.dtype("float32")
    alphas = constants.alphas_cumprod
    draws = draw(ObjectiveConfig(), jax.random.key(0), jnp.arange(2), (16, 16, 4), alphas)
    latents, conditions = jax.eval_shape(
        functools.partial(encode_batch, small.networks()),
        constants.frozen,
        batch,
        draws,
        constants.empty_prompt,
    )

    def backward(params, latents, conditions):
        def forward(params):
            return predict(
                small.networks(),
                constants.frozen,
                cast(params, dtype),
                latents,
                draws.timesteps,
                conditions,
                remat_wrapper(remat),
            )

        return jax.vjp(forward, params)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, params, latents, conditions))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in kept)


def test_remat_saves_less_for_the_backward_pass(params):
    weights = sum(value.nbytes for value in params.values())
    none, dots, full = (residual_bytes(params, remat) for remat in ("none", "dots", "full"))
    assert full < dots < none
    assert full - weights < 0.6 * (none - weights)


def test_draws_depend_on_seed_and_step(params):
    function, state = compiled(FLOAT32, None, "replicated"), start(params)
    batch, constants = jax.tree.map(jnp.asarray, small.batch(8)), small.constants()
    later, first = function(state, constants, batch, np.uint32(7))
    _, again = function(state, constants, batch, np.uint32(7))
    _, other_seed = function(state, constants, batch, np.uint32(8))
    _, other_step = function(state._replace(step=later.step), constants, batch, np.uint32(7))
    assert float(first["loss"]) == float(again["loss"])
    assert float(first["loss"]) != float(other_seed["loss"])
    assert float(first["loss"]) != float(other_step["loss"])


@pytest.mark.slow
def test_bfloat16_is_close_to_float32(params, alone):
    losses, state = run(params, StepConfig(dtype="bfloat16", remat="full"))
    np.testing.assert_allclose(losses, alone[0], rtol=2e-2)
    assert {value.dtype for value in state.params.values()} == {jnp.dtype("float32")}


def test_nonfinite_step_advances_only_the_step_count(params):
    function, state = compiled(FLOAT32, None, "replicated"), start(params)
    state = state._replace(ema={name: 2 * value for name, value in state.ema.items()})
    batch = jax.tree.map(jnp.asarray, small.batch(8))
    batch["id_embeds"] = batch["id_embeds"].at[3].set(jnp.nan)
    after, metrics = function(state, small.constants(), batch, np.uint32(7))
    assert not metrics["finite"] and not np.isfinite(metrics["loss"])
    assert after.step == 1
    before = (state.params, state.ema, state.opt_state[1][0].mu)
    for old, new in zip(before, (after.params, after.ema, after.opt_state[1][0].mu), strict=True):
        for name in old:
            np.testing.assert_array_equal(old[name], new[name])


def test_ema_follows_the_parameters(params, alone):
    _, state = alone
    name = "controlnet.conv_in.kernel"
    moved = relative_error(state.params[name], params[name])
    assert 0 < relative_error(state.ema[name], params[name]) < moved


IDENTITY = ObjectiveConfig(identity_weight=0.5, identity_window=6)


@pytest.fixture(scope="module")
def with_identity(params):
    """The state and metrics after a step with the identity loss."""
    function = compiled(FLOAT32, None, "replicated", IDENTITY)
    batch = jax.tree.map(jnp.asarray, small.batch(8))
    return function(start(params), with_recognizer(small.constants()), batch, np.uint32(7))


@pytest.mark.slow
def test_identity_loss_is_reported_and_trained_on(params, with_identity):
    state, metrics = with_identity
    batch = jax.tree.map(jnp.asarray, small.batch(8))
    other, without = compiled(FLOAT32, None, "replicated")(
        start(params), small.constants(), batch, np.uint32(7)
    )
    identity = float(metrics["identity_loss"])
    assert 0.1 < identity < 1  # random faces match nobody, and noise lowers the weight
    assert metrics["identity_share"] == 1
    outside = batch | {"kps": batch["kps"].at[:2].add(1000)}
    function = compiled(FLOAT32, None, "replicated", IDENTITY)
    constants = with_recognizer(small.constants())
    _, fewer = function(start(params), constants, outside, np.uint32(7))
    assert fewer["identity_share"] == 0.75
    np.testing.assert_allclose(
        float(metrics["loss"]), float(without["loss"]) + 0.5 * identity, rtol=1e-5
    )
    assert "identity_loss" not in without
    for group in ("image_proj", "ip_adapter", "controlnet"):
        assert metrics[f"grad_norm_{group}"] != without[f"grad_norm_{group}"]
    assert any((state.params[name] != other.params[name]).any() for name in params)


@pytest.mark.slow
@pytest.mark.parametrize("step", [FLOAT32, FOUR_MICRO_BATCHES], ids=["whole", "micro-batches"])
def test_identity_loss_is_the_same_on_a_mesh(params, with_identity, step):
    mesh = training_mesh((2, 1, 1), jax.devices()[:2])
    constants = with_recognizer(small.constants())
    constants = jax.device_put(constants, replicated(mesh))
    state = start(params)
    state = jax.device_put(state, state_sharding(state, mesh))
    batch = jax.device_put(small.batch(8), batch_sharding(mesh))
    _, metrics = compiled(step, mesh, "replicated", IDENTITY)(state, constants, batch, np.uint32(7))
    for name in ("loss", "identity_loss", "grad_norm"):
        np.testing.assert_allclose(
            float(metrics[name]), float(with_identity[1][name]), rtol=1e-4, err_msg=name
        )


def test_face_size_bins_cover_the_loss(params):
    function, state = compiled(FLOAT32, None, "replicated"), start(params)
    _, metrics = function(
        state, small.constants(), jax.tree.map(jnp.asarray, small.batch(8)), np.uint32(7)
    )
    bins = {k: float(v) for k, v in metrics.items() if k.startswith("loss_face_to_")}
    share = small.batch(8)["face_share"]
    edges = [0.0, *(float(k.rpartition("_")[2]) for k in bins)]
    counts = [((share > a) & (share <= b)).sum() for a, b in itertools.pairwise(edges)]
    total = sum(n * v for n, v in zip(counts, bins.values(), strict=True) if n)
    np.testing.assert_allclose(total / 8, float(metrics["loss"]), rtol=1e-5)
