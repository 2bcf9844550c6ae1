"""Stacks of blocks as one array per parameter, and their split into torch's names."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from instantid_jax.sharding import param_spec, training_mesh
from instantid_jax.stacks import stack, stack_shapes, unstack, unstack_shapes

# Twelve blocks, because as strings "10" sorts before "2"; and a layer outside of them.
NAMES = [f"down.0.transformer_blocks.{i}.ff.net.0.proj.kernel" for i in range(12)]
NAMES += ["mid.transformer_blocks.0.norm1.scale", "down.0.proj_in.kernel"]


def params():
    return {name: jnp.full((4, 2), i, jnp.float32) for i, name in enumerate(NAMES)}


def test_a_stack_holds_its_blocks_in_order():
    stacked = stack(params())
    assert list(stacked) == [
        "down.0.transformer_blocks.stack.ff.net.0.proj.kernel",
        "mid.transformer_blocks.stack.norm1.scale",
        "down.0.proj_in.kernel",
    ]
    first, alone, outside = stacked.values()
    np.testing.assert_array_equal(first[:, 0, 0], np.arange(12))
    assert alone.shape == (1, 4, 2)
    assert outside.shape == (4, 2)


def test_unstacking_is_the_inverse():
    shuffled = dict(sorted(params().items()))
    again = unstack(stack(shuffled))
    assert not shuffled, "stacking empties what it is given"
    assert again.keys() == set(NAMES)
    for name, value in params().items():
        np.testing.assert_array_equal(again[name], value)
    assert unstack(params()).keys() == set(NAMES), "without stacks, nothing changes"


def test_shapes_are_those_of_the_arrays():
    shapes = jax.eval_shape(params)
    stacked = stack_shapes(shapes)
    assert stacked == jax.eval_shape(lambda: stack(params()))
    assert unstack_shapes(stacked) == shapes


def test_stacks_are_sharded_as_their_blocks():
    mesh = training_mesh((2, 2, 2))
    name, shape = "a.transformer_blocks.3.attn1.to_q.kernel", (512, 512)
    spec = param_spec(name, shape, mesh)
    assert set(spec) == {"fsdp", "tensor"}
    stacked = param_spec(name.replace(".3.", ".stack."), (10, *shape), mesh)
    assert stacked == PartitionSpec(None, *spec)
