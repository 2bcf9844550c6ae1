"""Parameters as flat dictionaries, and their binding to NNX modules.

Everything outside `models/` sees `Params`, keyed by dotted path; freezing, selecting and merging
are dictionary comprehensions. This is the only file that calls `nnx.split`, `merge`, `eval_shape`.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from instantid_jax.stacks import STACKS, gather_shards, in_block, stack, stack_shapes

Params = dict[str, jax.Array]
Module = TypeVar("Module", bound=nnx.Module, covariant=True)
Config = TypeVar("Config", covariant=True)


class ModuleClass(Protocol[Module]):
    """A module class, constructed from a configuration and a source of PRNG keys."""

    __name__: str

    def __call__(self, config: Any, *, rngs: Any) -> Module: ...


@dataclasses.dataclass(frozen=True)
class Network(Generic[Module, Config]):
    """A module class and its configuration, without weights: shapes, initialization, binding.

    The configuration must be hashable: a jitted function may take a network as a static argument.

    Attributes:
      module: the module class, constructed as `module(config, rngs=rngs)`.
      config: the network's frozen configuration.
      stacked: whether parameters are those of `stacks.stack`. Each stack of transformer blocks is
        then bound to one block, which holds the parameters of all.
    """

    module: ModuleClass[Module]
    config: Config
    stacked: bool = False

    def make(self, key: jax.Array) -> Module:
        """The module with fresh parameters."""
        return self.module(self.config, rngs=_Keys(key))

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every parameter, in construction order; allocates nothing."""
        return dict(_abstract(self)[1])

    def init(self, key: jax.Array) -> Params:
        """Draws fresh parameters; jit it with `out_shardings` to create them already sharded."""
        params = {_name(p): v[...] for p, v in nnx.to_flat_state(nnx.state(self.make(key)))}
        return self.arrange(params)

    def arrange(self, params: Params) -> Params:
        """Stacks parameters by torch's names where this network's are stacked; empties `params`."""
        return stack(params) if self.stacked else params

    def bind(self, params: Mapping[str, jax.Array]) -> Module:
        """Returns the module holding `params`; free under `jax.jit` after tracing.

        Raises:
          ValueError: if names or shapes differ, listing the first of each kind. `nnx.merge`
            itself accepts renamed and misshapen leaves silently.
        """
        graph, want = _abstract(self)
        faults = mismatches({k: v.shape for k, v in want.items()}, _shapes(params))
        if faults:
            raise ValueError(f"parameters do not fit {self.module.__name__}: {'; '.join(faults)}")
        leaves = [(_path(in_block(name, 0)), value) for name, value in params.items()]
        return nnx.merge(graph, nnx.from_flat_state(leaves))


# Equal networks share this: constructing SDXL's UNet takes seconds even without arrays, and a model
# is looked at several times while it is loaded.
@functools.lru_cache(maxsize=64)
def _abstract(network: Network) -> tuple[nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
    """The module's graph, and the shape and dtype of every parameter."""

    def make() -> nnx.Module:
        return network.module(network.config, rngs=_Keys(jax.random.key(0), shapes_only=True))

    module = nnx.eval_shape(make)
    graph, state = nnx.split(module)
    shapes = {
        _name(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for path, leaf in nnx.to_flat_state(state)
    }
    if not network.stacked:
        return graph, shapes
    for _, each in nnx.iter_modules(module):
        if hasattr(each, STACKS):
            setattr(each, STACKS, nnx.List(getattr(each, STACKS)[:1]))
    return nnx.split(module)[0], stack_shapes(shapes)


class _Keys:
    """Gives each layer its own key; stands in for `nnx.Rngs`.

    `nnx.Rngs` keeps its counter in a variable, and under tracing each read of it walks the whole
    program so far: 42 seconds for the shapes of the SDXL UNet, compared with 2 seconds here.
    """

    def __init__(self, key: jax.Array, *, shapes_only: bool = False):
        """`shapes_only` tells layers that their values will not be used."""
        self.shapes_only = shapes_only
        self._key = key
        self._count = 0

    def params(self) -> jax.Array:
        if self.shapes_only:
            return self._key
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def mismatches(
    want: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]], limit: int = 4
) -> list[str]:
    """Describes how two sets of named shapes differ: missing, unexpected, of another shape.

    Returns one entry per kind, with its count and at most `limit` names; empty if they agree.
    """
    kinds = {
        "missing": [name for name in want if name not in got],
        "unexpected": [name for name in got if name not in want],
        "of another shape": [
            f"{name} is {tuple(got[name])}, expected {tuple(want[name])}"
            for name in want
            if name in got and tuple(got[name]) != tuple(want[name])
        ],
    }
    return [
        f"{len(names)} {kind}: {', '.join(names[:limit])}{', ...' if len(names) > limit else ''}"
        for kind, names in kinds.items()
        if names
    ]


def map_stack(call: Callable[[Module], Any], module: Module) -> Any:
    """`call(block)` of each block of a stack, with the results stacked.

    Args:
      module: a block that holds the parameters of all, as `Network.bind` makes it.
    """
    graph, state = nnx.split(module)

    # Otherwise the loop would save gathered parameters for the backward pass.
    @jax.checkpoint
    def one(state: nnx.State) -> Any:
        return call(nnx.merge(graph, gather_shards(state)))

    return jax.lax.map(one, state)


def scan_stack(module: Module, x: jax.Array, arguments: Any, wrap: Callable) -> jax.Array:
    """`x = block(x, argument)` for the blocks of a stack in turn, as a loop.

    Args:
      module: as for `map_stack`.
      arguments: those of all blocks, stacked.
      wrap: a transformation of each block, such as `jax.checkpoint`.
    """
    graph, state = nnx.split(module)

    @wrap
    def block(x: jax.Array, state: nnx.State, argument: Any) -> jax.Array:
        return nnx.merge(graph, gather_shards(state))(x, argument)

    return jax.lax.scan(lambda x, one: (block(x, *one), None), x, (state, arguments))[0]


def join_parts(parts: Mapping[str, Mapping[str, jax.Array]]) -> Params:
    """Merges the parameters of several networks, prefixing names: `part.name`."""
    return {f"{part}.{name}": v for part, params in parts.items() for name, v in params.items()}


def split_parts(params: Mapping[str, jax.Array]) -> dict[str, Params]:
    """The inverse of `join_parts`."""
    parts: dict[str, Params] = {}
    for name, value in params.items():
        part, _, own = name.partition(".")
        parts.setdefault(part, {})[own] = value
    return parts


def cast(params: Mapping[str, jax.Array], dtype: jnp.dtype) -> Params:
    """Casts the parameters to the compute dtype; modules follow the dtype of their weights."""
    return {name: value.astype(dtype) for name, value in params.items()}


def _shapes(params: Mapping[str, jax.Array]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in params.items()}


def _name(path: Sequence[Hashable]) -> str:
    return ".".join(str(part) for part in path)


def _path(name: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in name.split("."))
