"""The gradients of a batch on a mesh: each device works through its own examples.

Left to itself, the compiler splits layers as their parameters lie, and sends activations of the
whole batch around for it. Here the axes `data` and `fsdp` are the program's own: parameters are
gathered, gradients are scattered, and nothing else is exchanged. `tensor` stays the compiler's.
"""

import collections
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from instantid_jax.params import Params
from instantid_jax.sharding import BATCH_AXES, batch_sharding, param_spec
from train.step import Losses

Specs = Mapping[str, PartitionSpec]
# The number of a block in a stack of equal ones.
_BLOCK = re.compile(r"(?<=transformer_blocks)\.\d+\.|(?<=layers)\.\d+\.")


def on_mesh(
    gradients_of: Callable[..., tuple[Losses, Params]],
    mesh: Mesh,
    params: Params,
    frozen: Mapping[str, Specs],
) -> Callable[..., tuple[Losses, Params]]:
    """`loss_and_gradients` of a batch that lies over a mesh.

    Args:
      gradients_of: takes (params, constants, batch, examples, key) and `whole`, which makes
        parameters of a device's parts of them.
      params: the trainables, or their shapes.
      frozen: where the base networks' parameters lie.
    """
    trainable = {
        name: _manual(param_spec(name, tuple(value.shape), mesh)) for name, value in params.items()
    }
    frozen = {
        part: {name: _manual(spec) for name, spec in specs.items()}
        for part, specs in frozen.items()
    }
    devices = mesh.shape["data"] * mesh.shape["fsdp"]

    def local(params: Params, constants: Any, *rest: Any) -> tuple[Losses, Params]:
        base = {part: _gather(constants.frozen[part], specs) for part, specs in frozen.items()}
        each, gradients = gradients_of(
            params,
            constants._replace(frozen=base),
            *rest,
            whole=lambda params: _gather(params, trainable),
        )
        # Gathering's own transpose has summed over `fsdp` what was gathered.
        for name, spec in trainable.items():
            # Along an axis of one device there is nothing to sum, and XLA fails on (1, 1, 2).
            axes = [axis for axis in BATCH_AXES if axis not in spec and mesh.shape[axis] > 1]
            if axes:
                gradients[name] = jax.lax.psum(gradients[name], axes)
            gradients[name] /= devices
        return each, gradients

    def call(params: Params, constants: Any, *rest: Any) -> tuple[Losses, Params]:
        rows, anywhere = batch_sharding(mesh).spec, PartitionSpec()
        where = jax.tree.map(lambda _: anywhere, constants)._replace(frozen=frozen)
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(trainable, where, rows, rows, anywhere),
            out_specs=(rows, trainable),
            axis_names=set(BATCH_AXES),
            check_vma=False,
        )(params, constants, *rest)

    return call


def _manual(spec: PartitionSpec) -> PartitionSpec:
    """The part of a specification that is not the compiler's."""
    return PartitionSpec(*(axis if axis == "fsdp" else None for axis in spec))


def _gather(params: Params, specs: Specs) -> Params:
    """Whole parameters of a device's parts: blocks of one stack together, in one message."""
    stacks = collections.defaultdict(list)
    for name, value in params.items():
        stacks[_BLOCK.sub(".*.", name), value.shape, specs[name]].append(name)
    whole = dict(params)
    for (_, _, spec), names in stacks.items():
        if "fsdp" not in spec:
            continue
        parts = jnp.stack([params[name] for name in names])
        stack = jax.lax.all_gather(parts, "fsdp", axis=1 + spec.index("fsdp"), tiled=True)
        # Split, whose transpose is one concatenation; that of indexing is a sum of padded arrays.
        split = jax.lax.split(stack, [1] * len(names))
        whole |= {name: value[0] for name, value in zip(names, split, strict=True)}
    return whole
