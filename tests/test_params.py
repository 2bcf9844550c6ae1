"""Binding flat parameters to modules, and rejecting parameters that do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instantid_jax.params import (
    Network,
    cast,
    join_parts,
    map_stack,
    mismatches,
    scan_stack,
    split_parts,
)
from instantid_jax.stacks import stack


@dataclasses.dataclass(frozen=True)
class Config:
    layers: int = 12
    width: int = 4


class Layer(nnx.Linear):
    """A layer with a second input, like a block with context."""

    def __call__(self, x, added=0.0):
        return jnp.tanh(super().__call__(x) + added)


class Stack(nnx.Module):
    """Twelve layers, because as strings "10" sorts before "2"."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [Layer(config.width, config.width, rngs=rngs) for _ in range(config.layers)]
        )
        self.absent = None
        self.gate = nnx.Param(jax.random.normal(rngs.params(), (1, config.width)))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * self.gate


NETWORK = Network(Stack, Config())


@pytest.fixture(scope="module")
def params():
    return NETWORK.init(jax.random.key(0))


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (2, 4))


def test_names_are_dotted_paths_in_order_of_construction():
    names = list(NETWORK.shapes)
    assert set(names) == {
        "gate",
        *(f"layers.{i}.{leaf}" for i in range(12) for leaf in ("kernel", "bias")),
    }
    layers = [int(name.split(".")[1]) for name in names if name.endswith("kernel")]
    assert layers == list(range(12))


def test_shapes_do_not_contain_arrays():
    leaf = NETWORK.shapes["layers.0.kernel"]
    assert isinstance(leaf, jax.ShapeDtypeStruct)
    assert leaf.shape == (4, 4)


def test_init_draws_every_layer_independently(params):
    assert {name: leaf.shape for name, leaf in params.items()} == {
        name: leaf.shape for name, leaf in NETWORK.shapes.items()
    }
    kernels = {params[name].tobytes() for name in params if name.endswith("kernel")}
    assert len(kernels) == 12
    again = NETWORK.init(jax.random.key(0))
    assert all(np.array_equal(params[name], again[name]) for name in params)
    other = NETWORK.init(jax.random.key(1))
    assert not np.array_equal(params["gate"], other["gate"])


def test_parts_are_joined_under_their_names_and_split_again(params):
    parts = {"unet": params, "unet_2": {"unet.gate": params["gate"]}}
    joined = join_parts(parts)
    assert len(joined) == len(params) + 1
    assert joined["unet.gate"] is joined["unet_2.unet.gate"] is params["gate"]
    assert split_parts(joined) == parts


def test_bound_layers_are_in_numeric_order(params, x):
    expected = x
    for i in range(12):
        kernel, bias = params[f"layers.{i}.kernel"], params[f"layers.{i}.bias"]
        expected = jnp.tanh(expected @ kernel + bias[None])
    expected *= params["gate"]
    for order in (sorted(params), sorted(params, reverse=True)):
        module = NETWORK.bind({name: params[name] for name in order})
        np.testing.assert_allclose(module(x), expected, rtol=1e-5, atol=1e-6)


def test_binding_works_under_jit_and_grad(params, x):
    def loss(params):
        return (NETWORK.bind(params)(x) ** 2).sum()

    gradients = jax.jit(jax.grad(loss))(params)
    assert gradients.keys() == params.keys()
    assert all(jnp.any(gradient) for gradient in gradients.values())


def test_binding_does_not_copy_arrays(params):
    assert NETWORK.bind(params).gate[...] is params["gate"]


def test_rejects_a_renamed_parameter(params):
    renamed = {name.replace("layers.3.", "layers.12."): leaf for name, leaf in params.items()}
    with pytest.raises(ValueError, match=r"do not fit Stack: 2 missing: layers\.3\..*2 unexpected"):
        NETWORK.bind(renamed)


def test_rejects_a_parameter_of_another_shape(params):
    wide = params | {"layers.3.kernel": jnp.zeros((4, 5))}
    with pytest.raises(ValueError, match=r"layers\.3\.kernel is \(4, 5\), expected \(4, 4\)"):
        NETWORK.bind(wide)


def test_rejects_a_transposed_parameter():
    network = Network(Rectangle, Config())
    params = network.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"kernel is \(7, 4\), expected \(4, 7\)"):
        network.bind(params | {"kernel": params["kernel"].T})


class Rectangle(nnx.Module):
    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (config.width, 7)))


def test_equal_networks_compile_once(params, x):
    traced = []

    def run(network, params):
        traced.append(network)
        return network.bind(params)(x)

    run = jax.jit(run, static_argnums=0)
    run(Network(Stack, Config()), params)
    run(Network(Stack, Config()), params)
    assert len(traced) == 1


def test_mismatches_name_a_few_of_each_kind_and_count_all():
    want = {f"a{i}": (1,) for i in range(6)} | {"b": (2, 3)}
    faults = mismatches(want, {"b": (3, 2), "c": ()})
    assert faults == [
        "6 missing: a0, a1, a2, a3, ...",
        "1 unexpected: c",
        "1 of another shape: b is (3, 2), expected (2, 3)",
    ]
    assert mismatches(want, want) == []


def test_cast_changes_every_dtype_and_nothing_else(params):
    half = cast(params, jnp.bfloat16)
    assert {leaf.dtype for leaf in half.values()} == {jnp.dtype(jnp.bfloat16)}
    assert list(half) == list(params)
    np.testing.assert_allclose(half["gate"].astype(jnp.float32), params["gate"], rtol=1e-2)


class Blocks(nnx.Module):
    """Twelve transformer blocks, each with a context of its own."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.transformer_blocks = nnx.List(
            [Layer(config.width, config.width, rngs=rngs) for _ in range(config.layers)]
        )


BLOCKS = Network(Blocks, Config())
STACKED = dataclasses.replace(BLOCKS, stacked=True)


@pytest.fixture(scope="module")
def blocks():
    return BLOCKS.init(jax.random.key(0))


def test_a_stacked_network_has_one_array_for_all_blocks(blocks):
    shapes = {name: shape.shape for name, shape in STACKED.shapes.items()}
    assert shapes == {
        "transformer_blocks.stack.kernel": (12, 4, 4),
        "transformer_blocks.stack.bias": (12, 4),
    }
    drawn = STACKED.init(jax.random.key(0))
    for name, value in stack(dict(blocks)).items():
        np.testing.assert_array_equal(drawn[name], value)
    with pytest.raises(ValueError, match="24 unexpected"):
        STACKED.bind(blocks)


@pytest.mark.parametrize("wrap", [lambda layer: layer, jax.checkpoint])
def test_scanning_a_stack_equals_calling_its_blocks_in_turn(blocks, wrap):
    layers = BLOCKS.bind(blocks).transformer_blocks
    start = jnp.ones((2, 4))
    arguments = jnp.linspace(0.0, 1.0, 12 * 8).reshape(12, 2, 4)
    expected = start
    for layer, argument in zip(layers, arguments, strict=True):
        expected = layer(expected, argument)

    @jax.jit
    def scanned(params, arguments):
        (block,) = STACKED.bind(params).transformer_blocks
        return scan_stack(block, start, arguments, wrap)

    params = STACKED.arrange(dict(blocks))
    np.testing.assert_allclose(scanned(params, arguments), expected, rtol=1e-6)
    assert np.abs(scanned(params, arguments[::-1]) - expected).max() > 1e-3


def test_mapping_a_stack_calls_each_block(blocks, x):
    (block,) = STACKED.bind(STACKED.arrange(dict(blocks))).transformer_blocks
    mapped = map_stack(lambda block: block(x), block)
    each = [layer(x) for layer in BLOCKS.bind(blocks).transformer_blocks]
    np.testing.assert_allclose(mapped, np.stack(each), rtol=1e-5, atol=1e-6)
