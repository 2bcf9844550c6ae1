"""Strengths of the Image Adapter for each block of the UNet, in diffusers' form."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

from instantid_jax.errors import InputError
from instantid_jax.request.checks import Check, one_or_each, shortened

PARTS = ("down", "mid", "up")
_BLOCK = re.compile(r"block_(0|[1-9]\d?)")


class Blocks(Protocol):
    """A mapping such as a dictionary; `Mapping` itself means a group of options to tyro."""

    def keys(self) -> Iterable[str]: ...

    def __getitem__(self, name: str, /) -> Any: ...


class BlockScales(Mapping[str, Any]):
    """{"down": 0.5, "up": {"block_0": (0.0, 1.0, 0.0)}}: compares and hashes by value."""

    def __init__(self, values: Blocks):
        self._values: dict[str, Any] = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The same in types that JSON knows."""
        return {name: plain(value) for name, value in self._values.items()}


def plain(value: Any) -> Any:
    """A setting's value in types that JSON knows."""
    if isinstance(value, BlockScales):
        return value.to_json()
    return list(cast(tuple[Any, ...], value)) if isinstance(value, tuple) else value


def number_or_blocks(check: Check) -> Check:
    """A number, or `BlockScales` whose numbers `check` accepts."""
    one = one_or_each(check)

    def checked(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return check(name, value)
        value = cast(Mapping[Any, Any], value)
        if not value:
            raise InputError(f"{name} is empty: give a number, or strengths of down, mid and up")
        for part in value:
            if part not in PARTS:
                raise InputError(
                    f"{name} has {shortened(part)}: expected {', '.join(PARTS)}, as in "
                    '{"down": 0.5, "up": {"block_0": [0, 1, 0]}}'
                )
        return BlockScales({part: of_part(f"{name}.{part}", value[part]) for part in value})

    def of_part(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping) or name.endswith(".mid"):
            return one(name, value)
        value = cast(Mapping[Any, Any], value)
        for block in value:
            if not isinstance(block, str) or not _BLOCK.fullmatch(block):
                raise InputError(f"{name} has {shortened(block)}: expected block_0, block_1, ...")
        return BlockScales({block: one(f"{name}.{block}", value[block]) for block in value})

    return checked
