"""The optimizer matches torch's, its schedules match transformers', and the average is exact."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from jax.sharding import NamedSharding, PartitionSpec

from instantid_jax.errors import InputError
from instantid_jax.runs.contents import Meta
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.restoring import restore
from instantid_jax.sharding import training_mesh
from tests.parity.reference import relative_error
from train.optimizer import OptimizerConfig, learning_rate, make_optimizer, update_ema
from train.runs.saving import Saver
from train.state import init_state, state_sharding

SHAPES = {"conv.kernel": (3, 3, 4, 5), "conv.bias": (5,), "norm.scale": (5,), "latents": (4, 8)}


def drawn(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_ten_adamw_steps_match_torch(decay_all, clip_norm):
    config = OptimizerConfig(
        learning_rate=1e-2,
        warmup_steps=0,
        weight_decay=0.1,
        decay_all=decay_all,
        clip_norm=clip_norm,
    )
    theirs = {name: torch.tensor(v, requires_grad=True) for name, v in drawn(0).items()}
    plain = [value for name, value in theirs.items() if name != "conv.kernel"]
    groups = [
        {"params": [theirs["conv.kernel"]]},
        {"params": plain, "weight_decay": 0.1 if decay_all else 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1)
    params = {name: jnp.asarray(value) for name, value in drawn(0).items()}
    transform = make_optimizer(config, params)
    opt_state = transform.init(params)
    for step in range(1, 11):
        gradients = drawn(step)
        for name, value in theirs.items():
            value.grad = torch.tensor(gradients[name])
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        adamw.step()
        updates, opt_state = transform.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
    for name, value in params.items():
        assert relative_error(value, theirs[name].detach().numpy()) < 1e-6, name


def test_muon_steps_match_torch():
    config = OptimizerConfig(
        algorithm="muon", learning_rate=1e-2, warmup_steps=0, weight_decay=0.1, clip_norm=None
    )
    params = {name: jnp.asarray(value) for name, value in drawn(0).items()}

    def matrix(kernel):
        """A matrix of outputs by inputs, all that torch's Muon supports."""
        return np.array(kernel).reshape(36, 5).T.copy()

    weight = torch.tensor(matrix(params["conv.kernel"]), requires_grad=True)
    theirs = torch.optim.Muon([weight], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    transform = make_optimizer(config, params)
    state = transform.init(params)
    errors = {}
    for step in range(1, 11):
        gradients, before = drawn(step), weight.detach().clone()
        weight.grad = torch.tensor(matrix(gradients["conv.kernel"]))
        theirs.step()
        updates, state = transform.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        moved = (weight - before).detach().numpy()
        errors[step] = relative_error(matrix(updates["conv.kernel"]), moved)
    # torch computes in bfloat16, and unlike optax does not correct the momentum's bias.
    assert errors[1] < 3e-2 and errors[10] < 3e-2 and max(errors.values()) < 0.1


def test_muon_step_is_the_same_on_a_mesh():
    config = OptimizerConfig(algorithm="muon", learning_rate=1e-2, warmup_steps=0)
    params, gradients = drawn(0), drawn(1)

    @jax.jit
    def update(params, gradients):
        transform = make_optimizer(config, params)
        return transform.update(gradients, transform.init(params), params)[0]

    alone = update(params, gradients)
    mesh = training_mesh((1, 2, 1), jax.devices()[:2])
    rows = NamedSharding(mesh, PartitionSpec(None, None, "fsdp"))
    split = {"conv.kernel": jax.device_put(params["conv.kernel"], rows)}
    split_gradients = {"conv.kernel": jax.device_put(gradients["conv.kernel"], rows)}
    spread = update(params | split, gradients | split_gradients)
    for name, value in alone.items():
        assert relative_error(spread[name], value) < 1e-5, name


@pytest.mark.parametrize("decay_all", [False, True])
def test_muon_updates_other_parameters_with_adamw(decay_all):
    config = OptimizerConfig(
        algorithm="muon",
        learning_rate=1e-2,
        warmup_steps=0,
        weight_decay=0.1,
        decay_all=decay_all,
        clip_norm=None,
        b1=0.8,
        b2=0.9,
        eps=1e-2,
    )
    params = {name: jnp.asarray(value) for name, value in drawn(0).items()}
    adamw = optax.nadamw(1e-2, b1=0.8, b2=0.9, eps=1e-2, weight_decay=0.1 if decay_all else 0.0)
    transform = make_optimizer(config, params)
    state, theirs = transform.init(params), adamw.init(params)
    for step in range(1, 4):
        updates, state = transform.update(drawn(step), state, params)
        expected, theirs = adamw.update(drawn(step), theirs, params)
        for name in params.keys() - {"conv.kernel"}:
            assert relative_error(updates[name], expected[name]) < 1e-6, name


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        ("constant", transformers.get_constant_schedule_with_warmup),
        (
            "cosine",
            functools.partial(transformers.get_cosine_schedule_with_warmup, num_training_steps=50),
        ),
        (
            "linear",
            functools.partial(transformers.get_linear_schedule_with_warmup, num_training_steps=50),
        ),
    ],
    ids=["constant", "cosine", "linear"],
)
@pytest.mark.parametrize("warmup", [0, 10])
def test_schedules_match_transformers(schedule, named, warmup):
    config = OptimizerConfig(
        learning_rate=3e-4, schedule=schedule, warmup_steps=warmup, decay_steps=50
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    theirs, rates = named(optimizer, num_warmup_steps=warmup), []
    for _ in range(60):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    ours = [float(learning_rate(config)(step)) for step in range(60)]
    # transformers' cosine rises again after its end.
    until = 50 if schedule == "cosine" else 60
    np.testing.assert_allclose(ours[:until], rates[:until], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("warmup", [0, 4, 10])
def test_warm_restarts_match_sgdr(warmup):
    config = OptimizerConfig(
        learning_rate=3e-4,
        schedule="cosine",
        warmup_steps=warmup,
        restarts=(50, 110),
        decay_steps=140,
    )
    # A restart's warmup takes a tenth of its steps at most.
    cycles = [(3e-4, 50, warmup), (1e-4, 60, min(warmup, 6)), (1e-4, 30, min(warmup, 3))]
    theirs = optax.sgdr_schedule(
        [
            {"init_value": 0.0, "peak_value": peak, "decay_steps": steps, "warmup_steps": warmup}
            for peak, steps, warmup in cycles
        ]
    )
    ours = learning_rate(config)
    steps = range(150)
    np.testing.assert_allclose(
        [float(ours(step)) for step in steps], [float(theirs(step)) for step in steps], atol=1e-10
    )


def test_each_linear_decay_ends_at_a_restart():
    config = OptimizerConfig(
        learning_rate=3e-4, schedule="linear", warmup_steps=0, restarts=(20,), decay_steps=30
    )
    rate = learning_rate(config)
    assert [round(float(rate(step)), 8) for step in (0, 10, 19, 20, 25, 29, 30)] == (
        [3e-4, 1.5e-4, 1.5e-5, 1e-4, 5e-5, 1e-5, 0]
    )


def test_restarts_change_nothing_before_the_first():
    config = OptimizerConfig(schedule="cosine", warmup_steps=5, decay_steps=20)
    once = learning_rate(config)
    again = learning_rate(dataclasses.replace(config, restarts=(20,), decay_steps=40))
    assert [float(once(step)) for step in range(20)] == [float(again(step)) for step in range(20)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restarts": (10,)}, "between warmup_steps=10 and decay_steps=90"),
        ({"restarts": (90,)}, "between warmup_steps=10 and decay_steps=90"),
        ({"restarts": (50, 40)}, "ascending"),
        ({"restarts": (50,), "schedule": "constant"}, "the constant schedule has none"),
    ],
)
def test_rejects_invalid_restarts(changes, message):
    config = OptimizerConfig(schedule="cosine", warmup_steps=10, decay_steps=90)
    with pytest.raises(InputError, match=message):
        dataclasses.replace(config, **changes)


def test_average_of_constant_parameters_is_exact():
    params = {name: jnp.asarray(value) for name, value in drawn(0).items()}
    ema = params
    for _ in range(3):
        ema = update_ema(0.9999, ema, params)
    for name in params:
        np.testing.assert_array_equal(ema[name], params[name])


def test_average_decays_exponentially():
    ema = {"a": jnp.ones(())}
    for _ in range(1000):
        ema = update_ema(0.999, ema, {"a": jnp.zeros(())})
    assert float(ema["a"]) == pytest.approx(0.999**1000, rel=1e-4)


def test_adafactor_steps_match_transformers():
    config = OptimizerConfig(
        algorithm="adafactor",
        learning_rate=1e-2,
        warmup_steps=0,
        weight_decay=0.1,
        decay_all=True,
        clip_norm=None,
    )
    # A matrix with factored moments, and a bias without.
    shapes = {"wide.kernel": (128, 160), "bias": (7,)}

    def draw(seed):
        random = np.random.default_rng(seed)
        return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}

    params = {name: jnp.asarray(value) for name, value in draw(0).items()}
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in draw(0).items()}
    adafactor = transformers.Adafactor(
        *(theirs.values(), 1e-2),
        beta1=0.9,
        weight_decay=0.1,
        scale_parameter=False,
        relative_step=False,
    )
    transform = make_optimizer(config, params)
    state = transform.init(params)
    for step in range(1, 11):
        for name, value in theirs.items():
            value.grad = torch.tensor(draw(step)[name])
        adafactor.step()
        updates, state = transform.update(draw(step), state, params)
        params = optax.apply_updates(params, updates)
    for name, value in params.items():
        assert relative_error(value, theirs[name].detach().numpy()) < 1e-6, name


def test_adafactor_state_is_small():
    params = {"wide.kernel": jnp.zeros((3, 3, 256, 512)), "conv.bias": jnp.zeros(512)}

    def size(**changes):
        state = make_optimizer(OptimizerConfig(**changes), params).init(params)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    one = 4 * 3 * 3 * 256 * 512
    assert 2 * one < size() < 2.01 * one
    assert 1.5 * one < size(moment_dtype="bfloat16") < 1.51 * one
    assert one < size(algorithm="adafactor") < 1.02 * one
    assert one / 2 < size(algorithm="adafactor", moment_dtype="bfloat16") < 0.52 * one
    assert size(algorithm="adafactor", b1=0.0) < 0.02 * one


def test_factored_states_on_a_mesh(tmp_path):
    """Their factors are replicated, steps are as on one device, and checkpoints keep all bits."""
    config = OptimizerConfig(
        algorithm="adafactor", learning_rate=1e-2, warmup_steps=0, moment_dtype="bfloat16"
    )
    random = np.random.default_rng(0)
    params, *gradients = (
        {"wide.kernel": jnp.asarray(random.standard_normal((256, 512), np.float32))}
        for _ in range(3)
    )

    @jax.jit
    def step(state, gradients):
        transform = make_optimizer(config, state.params)
        updates, moments = transform.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(step=state.step + 1, params=params, opt_state=moments)

    alone = init_state(config, params)
    mesh = training_mesh((1, 2, 1), jax.devices()[:2])
    shardings = state_sharding(jax.eval_shape(lambda: alone), mesh)
    spread = jax.device_put(alone, shardings)
    split = {leaf.shape for leaf in jax.tree.leaves(spread) if not leaf.is_fully_replicated}
    assert split == {(256, 512)}
    assert {leaf.shape for leaf in jax.tree.leaves(spread)} > {(256,), (512,)}
    spread = jax.device_put(step(spread, gradients[0]), shardings)
    moved = step(alone, gradients[0]).params["wide.kernel"]
    assert relative_error(spread.params["wide.kernel"], moved) < 1e-6

    run = RunFolder(tmp_path / "run")
    with Saver(run, start=0, every=1) as saver:
        saver.save(1, spread, Meta(fingerprint={}, seed=0, position=1))
    template = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        *(spread, shardings),
    )
    restored = restore(run, template).state
    for ours, theirs in zip(
        jax.tree.leaves(step(restored, gradients[1])),
        jax.tree.leaves(step(spread, gradients[1])),
        strict=True,
    ):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": "adafactor", "moment_dtype": "bfloat16"}, {"moment_dtype": "bfloat16"}],
    ids=["adafactor", "adamw"],
)
def test_small_states_learn(changes):
    """A linear regression, to a thousandth of the loss in which it starts."""
    config = OptimizerConfig(
        learning_rate=0.03, warmup_steps=0, schedule="cosine", decay_steps=300, **changes
    )
    random = np.random.default_rng(0)
    inputs = random.standard_normal((512, 128), np.float32)
    wanted = inputs @ random.standard_normal((128, 128), np.float32)

    def loss(params):
        return jnp.mean((inputs @ params["a.kernel"] - wanted) ** 2)

    @jax.jit
    def learn(params):
        def step(carry, _):
            params, state = carry
            value, gradients = jax.value_and_grad(loss)(params)
            updates, state = make_optimizer(config, params).update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), value

        start = params, make_optimizer(config, params).init(params)
        return jax.lax.scan(step, start, None, 300)[1]

    values = learn({"a.kernel": jnp.zeros((128, 128))})
    assert values[-1] < 1e-3 * values[0]


@pytest.mark.parametrize("changes", [{"algorithm": "sgd"}, {"moment_dtype": "int8"}])
def test_rejects_unknown_algorithms_and_dtypes(changes):
    (name,) = changes
    with pytest.raises(InputError, match=f"{name}=.*: expected one of"):
        OptimizerConfig(**changes)
