"""Parameters as flat dictionaries, and the one place where they meet NNX modules.

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

Params = dict[str, jax.Array]
Module = TypeVar("Module", bound=nnx.Module, covariant=True)
Config = TypeVar("Config", covariant=True)


class ModuleClass(Protocol[Module]):
    """A class of networks: called with its configuration and something that hands out keys."""

    __name__: str

    def __call__(self, config: Any, *, rngs: Any) -> Module: ...


@dataclasses.dataclass(frozen=True)
class Network(Generic[Module, Config]):
    """A module class and its configuration, without weights: shapes, initialisation, binding.

    Hashable when the configuration is, so a jitted function may take it as a static argument.

    Attributes:
      module: class constructed as `module(config, rngs=rngs)`.
      config: the network's frozen configuration.
    """

    module: ModuleClass[Module]
    config: Config

    def _make(self, key: jax.Array) -> Module:
        return self.module(self.config, rngs=_Keys(key))

    @functools.cached_property
    def _abstract(self) -> tuple[nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
        graph, state = nnx.split(nnx.eval_shape(lambda: self._make(jax.random.key(0))))
        return graph, {
            _name(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for path, leaf in nnx.to_flat_state(state)
        }

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Name to shape of every parameter, in the order of construction; uses no memory."""
        return dict(self._abstract[1])

    def init(self, key: jax.Array) -> Params:
        """Draws fresh parameters; jit it with `out_shardings` to create them already sharded."""
        return {_name(p): v[...] for p, v in nnx.to_flat_state(nnx.state(self._make(key)))}

    def bind(self, params: Mapping[str, jax.Array]) -> Module:
        """Returns the module holding `params`; free under `jax.jit` after tracing.

        Raises:
          ValueError: if a name or a shape differs, with the first of each kind. `nnx.merge` would
            take a renamed or wrongly shaped leaf without a word.
        """
        graph, want = self._abstract
        faults = mismatches({k: v.shape for k, v in want.items()}, _shapes(params))
        if faults:
            raise ValueError(f"parameters do not fit {self.module.__name__}: {'; '.join(faults)}")
        return nnx.merge(graph, nnx.from_flat_state([(_path(k), v) for k, v in params.items()]))


class _Keys:
    """Hands each layer a key of its own, in the place of `nnx.Rngs`.

    That keeps its counter in a variable, and under tracing each read of it walks the whole
    program so far: the shapes of the SDXL UNet took 42 seconds, and take 2 so.
    """

    def __init__(self, key: jax.Array):
        self._key = key
        self._count = 0

    def params(self) -> jax.Array:
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def mismatches(
    want: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]], limit: int = 4
) -> list[str]:
    """Describes how two sets of named shapes differ: missing, unexpected, of another shape.

    Each kind is one entry with its count and at most `limit` names; empty when they agree.
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


def scan_modules(
    modules: Sequence[nnx.Module], x: jax.Array, arguments: Sequence[Any], wrap: Callable
) -> jax.Array:
    """`x = module(x, argument)` for equal modules in turn, as a loop over their stacked parameters.

    A compiler sees one of them in place of all.

    Args:
      wrap: of each module, such as `jax.checkpoint`.
    """
    graphs, states = zip(*(nnx.split(module) for module in modules), strict=True)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *zip(states, arguments, strict=True))

    def body(x: jax.Array, one: tuple) -> tuple[jax.Array, None]:
        state, argument = one
        return wrap(lambda x, state, a: nnx.merge(graphs[0], state)(x, a))(x, state, argument), None

    return jax.lax.scan(body, x, stacked)[0]


def join_parts(parts: Mapping[str, Mapping[str, jax.Array]]) -> Params:
    """Parameters of several networks as those of one, each named after its part: `part.name`."""
    return {f"{part}.{name}": v for part, params in parts.items() for name, v in params.items()}


def split_parts(params: Mapping[str, jax.Array]) -> dict[str, Params]:
    """The inverse of `join_parts`."""
    parts: dict[str, Params] = {}
    for name, value in params.items():
        part, _, own = name.partition(".")
        parts.setdefault(part, {})[own] = value
    return parts


def cast(params: Mapping[str, jax.Array], dtype: jnp.dtype) -> Params:
    """The parameters in the dtype a program computes in; modules follow their weights' dtype."""
    return {name: value.astype(dtype) for name, value in params.items()}


def _shapes(params: Mapping[str, jax.Array]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in params.items()}


def _name(path: Sequence[Hashable]) -> str:
    return ".".join(str(part) for part in path)


def _path(name: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in name.split("."))
