"""The TPU's attention kernel, in Pallas' interpreter: equal to XLA's attention on any mesh."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from instantid_jax.models import attention, splash
from instantid_jax.sharding import sampling_mesh
from tests.models.conftest import normal

plain = functools.partial(jax.nn.dot_product_attention, implementation="xla")
on_each_device = functools.partial(attention._on_each_device, splash.splash_attention)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Several blocks for few positions, and no TPU."""
    monkeypatch.setattr(splash, "LARGEST_BLOCK", 128)
    make = functools.partial(splash.kernels.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash.kernels, "make_splash_mha", make)


def random_inputs(queries: int, keys: int, heads: int = 2, rows: int = 2, width: int = 40):
    return tuple(
        normal(i, rows, length, heads, width) for i, length in enumerate((queries, keys, keys))
    )


def error(ours: jax.Array, reference: jax.Array) -> float:
    return float(jnp.linalg.norm(ours - reference) / jnp.linalg.norm(reference))


@pytest.mark.parametrize(
    ("queries", "keys"), [pytest.param(256, 256, marks=pytest.mark.slow), (200, 150)]
)
def test_it_equals_plain_attention_and_so_does_its_gradient(queries, keys):
    """Lengths that are multiples of 128, and that are not."""
    inputs = random_inputs(queries, keys)
    assert error(splash.splash_attention(*inputs), plain(*inputs)) < 1e-5

    def loss(function, *inputs):
        return (function(*inputs) ** 2).sum()

    gradients, expected = (
        jax.grad(functools.partial(loss, function), argnums=(0, 1, 2))(*inputs)
        for function in (splash.splash_attention, plain)
    )
    for ours, reference in zip(gradients, expected, strict=True):
        assert error(ours, reference) < 1e-5


def test_softmax_of_bfloat16_is_taken_in_float32():
    """Were the logits rounded to 8 bits, the result would be off by about one per cent."""
    inputs = [4 * x.astype(jnp.bfloat16) for x in random_inputs(128, 128, width=64)]
    ours = splash.splash_attention(*inputs)
    assert ours.dtype == jnp.bfloat16
    exact = plain(*(x.astype(jnp.float32) for x in inputs))
    assert error(ours.astype(jnp.float32), exact) < 5e-3
    query, key, value = (x.astype(jnp.float32) for x in inputs)
    logits = jnp.einsum("bqkd,blkd->bkql", query / 8, key).astype(jnp.bfloat16)
    weights = jax.nn.softmax(logits.astype(jnp.float32))
    assert error(jnp.einsum("bkql,blkd->bqkd", weights, value), exact) > 1e-2


@pytest.mark.parametrize(
    ("shape", "heads", "rows"),
    [((2, 2, 2), 2, 4), ((2, 1, 4), 2, 4), ((8, 1, 1), 2, 4)],
    ids=["all axes", "heads that tensor does not divide", "rows that data does not divide"],
)
def test_a_mesh_changes_nothing(shape, heads, rows):
    inputs = random_inputs(128, 128, heads, rows)
    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    whole = NamedSharding(mesh, PartitionSpec())
    with jax.set_mesh(mesh):
        ours = jax.jit(on_each_device)(*jax.device_put(inputs, whole))
    assert error(jax.device_get(ours), plain(*inputs)) < 1e-5


@pytest.mark.parametrize(
    ("shape", "rows", "batch"),
    [
        ((2, 2, 2), 4, ("guidance", "data")),
        # Decoded images have no second half.
        ((2, 2, 2), 2, ("data",)),
        ((2, 2, 2), 3, None),
    ],
    ids=["halves", "images", "undivided"],
)
def test_a_sampling_mesh_changes_nothing(shape, rows, batch):
    inputs = random_inputs(256, 128, rows=rows)
    mesh = sampling_mesh(*shape)
    with jax.set_mesh(mesh):
        whole = NamedSharding(mesh, PartitionSpec())
        ours = jax.jit(on_each_device)(*jax.device_put(inputs, whole))
        assert ours.sharding.spec == PartitionSpec(batch, ("rows",))
    assert error(jax.device_get(ours), plain(*inputs)) < 1e-5


def test_axes_that_are_already_split_stay_so():
    """As in training, where `data` and `fsdp` are the program's own."""
    inputs = random_inputs(128, 128, rows=4)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    rows = PartitionSpec(("data", "fsdp"))
    split = jax.shard_map(
        on_each_device,
        mesh=mesh,
        in_specs=(rows,) * 3,
        out_specs=rows,
        axis_names={"data", "fsdp"},
        check_vma=False,
    )
    assert error(jax.device_get(jax.jit(split)(*inputs)), plain(*inputs)) < 1e-5


@pytest.mark.parametrize(
    ("queries", "keys", "width", "taken"),
    [
        (4096, 4096, 64, True),
        (1024, 1024, 64, True),
        (1600, 1600, 64, True),
        (576, 576, 64, False),
        (4096, 77, 64, False),
        # The VAE's one head.
        (4096, 4096, 512, False),
    ],
)
def test_long_self_attention_takes_it_on_a_tpu(monkeypatch, queries, keys, width, taken):
    asked = []
    monkeypatch.setattr(attention, "_platform", lambda: "tpu")
    monkeypatch.setattr(splash, "splash_attention", lambda query, *_: asked.append(1) or query)
    shapes = [jax.ShapeDtypeStruct((1, n, 2, width), jnp.bfloat16) for n in (queries, keys, keys)]
    jax.eval_shape(attention.attention, *shapes)
    assert bool(asked) == taken


def test_blocks_are_the_largest_that_divide_the_length(monkeypatch):
    monkeypatch.setattr(splash, "LARGEST_BLOCK", 1024)
    lengths = (128, 1024, 2304, 4096, 6400, 1664)
    assert [splash._block(length) for length in lengths] == [128, 1024, 768, 1024, 640, 128]
