"""Stacks: the parameters of equal transformer blocks as one array each.

SDXL's UNet has 70 transformer blocks in stacks of two and ten. With one array per stack, a program
loops over the blocks, and casts, gathers and updates all of them at once, so it has a fraction of
the operations. `transformer_blocks.0.norm1.scale` and so on, each [D], become
`transformer_blocks.stack.norm1.scale` [blocks, D].
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

# The modules' attribute that lists a stack's blocks, and what stands for a block's index in names.
STACKS, STACK = "transformer_blocks", "stack"
_BLOCK = re.compile(rf"(?<={STACKS}\.)\d+(?=\.)")
_STACK = re.compile(rf"(?<={STACKS}\.){STACK}(?=\.)")


def is_stacked(name: str) -> bool:
    return _STACK.search(name) is not None


def in_stack(name: str) -> str:
    """The name of the stack that a block's parameter is in; other names as they are."""
    return _BLOCK.sub(STACK, name, count=1)


def in_block(name: str, block: int) -> str:
    """The name of a stack's parameter in one block; other names as they are."""
    return _STACK.sub(str(block), name, count=1)


def stack(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Stacks parameters by torch's names, emptying `params`: at most one stack is held twice."""
    stacked = {}
    for name, members in _stacks(params).items():
        arrays = [params.pop(member) for member in members]
        stacked[name] = jnp.stack(arrays) if is_stacked(name) else arrays[0]
    return stacked


def unstack(params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The inverse of `stack`; parameters by torch's names stay as they are."""
    split = {}
    for name, value in params.items():
        if is_stacked(name):
            split |= {in_block(name, i): value[i] for i in range(len(value))}
        else:
            split[name] = value
    return split


def stack_shapes(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of `stack`'s result."""
    stacked = {}
    for name, members in _stacks(shapes).items():
        first = shapes[members[0]]
        if is_stacked(name):
            first = jax.ShapeDtypeStruct((len(members), *first.shape), first.dtype)
        stacked[name] = first
    return stacked


def unstack_shapes(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of `unstack`'s result."""
    split = {}
    for name, shape in shapes.items():
        if is_stacked(name):
            one = jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype)
            split |= {in_block(name, i): one for i in range(shape.shape[0])}
        else:
            split[name] = shape
    return split


def _stacks(names: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of each stack's parameter in its blocks, by the stack's name, in order."""
    stacks: dict[str, list[str]] = {}
    for name in names:
        stacks.setdefault(in_stack(name), []).append(name)
    for name, members in stacks.items():
        if is_stacked(name):
            stacks[name] = [in_block(name, i) for i in range(len(members))]
    return stacks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shard:
    """A device's part of a stack's parameter, gathered block by block when the blocks run.

    Attributes:
      value: [blocks, ...], in `jax.shard_map`; in a loop over the blocks, one block's.
      axis: which axis of a block's parameter is split.
      mesh_axis: over which axis of the mesh.
    """

    value: jax.Array
    axis: int = dataclasses.field(metadata={"static": True})
    mesh_axis: str = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole stack's."""
        shape = list(self.value.shape)
        shape[1 + self.axis] *= jax.lax.axis_size(self.mesh_axis)
        return tuple(shape)


def gather_shards(block: Any) -> Any:
    """The parameters of one block, a pytree, with its shards gathered."""
    return jax.tree.map(_gathered, block, is_leaf=lambda leaf: isinstance(leaf, Shard))


def _gathered(leaf: Any) -> Any:
    if not isinstance(leaf, Shard):
        return leaf
    return jax.lax.all_gather(leaf.value, leaf.mesh_axis, axis=leaf.axis, tiled=True)
