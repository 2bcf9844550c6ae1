"""Gradients on a mesh: each device processes its own examples.

With automatic partitioning the compiler follows the parameters' sharding and exchanges activations
of the whole batch. Here `shard_map` makes the axes `data` and `fsdp` manual: parameters are
gathered, gradients are reduce-scattered, and nothing else is exchanged. `tensor` stays automatic.
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
from instantid_jax.stacks import Shard, is_stacked
from train.step import Losses

Specs = Mapping[str, PartitionSpec]
# A block's index in a list of identical blocks.
_BLOCK = re.compile(r"(?<=transformer_blocks)\.\d+\.|(?<=layers)\.\d+\.")


def on_mesh(
    gradients_of: Callable[..., tuple[Losses, Params]],
    mesh: Mesh,
    params: Params,
    frozen: Mapping[str, Specs],
    *,
    in_loops: bool = True,
) -> Callable[..., tuple[Losses, Params]]:
    """Wraps `loss_and_gradients` for a batch sharded over a mesh.

    Args:
      gradients_of: function of (params, constants, batch, examples, key) and `whole`, which gathers
        full parameters from a device's shards.
      params: the trainables or their shapes.
      frozen: partition specs of the base networks' parameters.
      in_loops: gather stacks of blocks in the loops over them, which saves memory; else before.
    """
    trainable, frozen = _manual_specs(mesh, params, frozen)
    devices = mesh.shape["data"] * mesh.shape["fsdp"]

    def local(params: Params, constants: Any, *rest: Any) -> tuple[Losses, Params]:
        base = {
            part: _gather(constants.frozen[part], specs, in_loops=in_loops)
            for part, specs in frozen.items()
        }
        each, gradients = gradients_of(
            params,
            constants._replace(frozen=base),
            *rest,
            whole=lambda params: _gather(params, trainable, in_loops=in_loops),
        )
        # The transpose of the gather has already summed gathered parameters' gradients over `fsdp`.
        for name, spec in trainable.items():
            # Axes of size 1 need no sum, and XLA fails on such a sum on a (1, 1, 2) mesh.
            axes = [axis for axis in BATCH_AXES if axis not in spec and mesh.shape[axis] > 1]
            if axes:
                gradients[name] = jax.lax.psum(gradients[name], axes)
            gradients[name] /= devices
        return each, gradients

    rows = batch_sharding(mesh).spec
    return _on_mesh(local, mesh, trainable, frozen, (rows, trainable))


def losses_on_mesh(
    losses_of: Callable[..., jax.Array],
    mesh: Mesh,
    params: Params,
    frozen: Mapping[str, Specs],
    *,
    in_loops: bool = True,
) -> Callable[..., jax.Array]:
    """Wraps a function of the same arguments that returns a value of each example, [B, ...].

    Args:
      mesh, params, frozen, in_loops: as for `on_mesh`.
    """
    trainable, frozen = _manual_specs(mesh, params, frozen)

    def local(params: Params, constants: Any, *rest: Any) -> jax.Array:
        base = {
            part: _gather(constants.frozen[part], specs, in_loops=in_loops)
            for part, specs in frozen.items()
        }
        return losses_of(
            params,
            constants._replace(frozen=base),
            *rest,
            whole=lambda params: _gather(params, trainable, in_loops=in_loops),
        )

    return _on_mesh(local, mesh, trainable, frozen, batch_sharding(mesh).spec)


def _on_mesh(
    local: Callable[..., Any], mesh: Mesh, trainable: Specs, frozen: Mapping[str, Specs], out: Any
) -> Callable[..., Any]:
    def call(params: Params, constants: Any, *rest: Any) -> Any:
        rows, anywhere = batch_sharding(mesh).spec, PartitionSpec()
        where = jax.tree.map(lambda _: anywhere, constants)._replace(frozen=frozen)
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(trainable, where, rows, rows, anywhere),
            out_specs=out,
            axis_names=set(BATCH_AXES),
            check_vma=False,
        )(params, constants, *rest)

    return call


def _manual_specs(
    mesh: Mesh, params: Params, frozen: Mapping[str, Specs]
) -> tuple[dict[str, PartitionSpec], dict[str, dict[str, PartitionSpec]]]:
    """The parts along the manual axes of the trainables' and the frozen parameters' specs."""
    return (
        {
            name: _manual(param_spec(name, tuple(value.shape), mesh))
            for name, value in params.items()
        },
        {
            part: {name: _manual(spec) for name, spec in specs.items()}
            for part, specs in frozen.items()
        },
    )


def _manual(spec: PartitionSpec) -> PartitionSpec:
    """The part of a spec along the manual axes."""
    return PartitionSpec(*(axis if axis == "fsdp" else None for axis in spec))


def _gather(params: Params, specs: Specs, *, in_loops: bool) -> Params:
    """Gathers full parameters from shards, with one collective per list of blocks.

    Args:
      in_loops: leave stacks to the loops over their blocks, which gather one block at a time.
    """
    lists = collections.defaultdict(list)
    whole = dict(params)
    for name, value in params.items():
        if "fsdp" not in specs[name]:
            continue
        if in_loops and is_stacked(name):
            whole[name] = Shard(value, specs[name].index("fsdp") - 1, "fsdp")
        else:
            lists[_BLOCK.sub(".*.", name), value.shape, specs[name]].append(name)
    for (_, _, spec), names in lists.items():
        parts = jnp.stack([params[name] for name in names])
        together = jax.lax.all_gather(parts, "fsdp", axis=1 + spec.index("fsdp"), tiled=True)
        # `split` transposes to one concatenation, indexing to a sum of padded arrays.
        split = jax.lax.split(together, [1] * len(names))
        whole |= {name: value[0] for name, value in zip(names, split, strict=True)}
    return whole
