"""Reads a network's `config.json` into its frozen dataclass."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from instantid_jax.errors import InputError

logger = logging.getLogger(__name__)


class Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


Config = TypeVar("Config", bound=Dataclass)


def config_from_json(
    config_class: type[Config], settings: Mapping[str, Any], *, only: Mapping[str, Any]
) -> Config:
    """Builds `config_class` from the settings of a diffusers or transformers `config.json`.

    Turns lists into tuples. Ignores keys that are neither in the dataclass nor in `only`, as
    diffusers and transformers ignore unknown keys.

    Args:
      only: fixed settings with their supported value, or tuple of values.
    Raises:
      InputError: if a key of `only` has another value, or the dataclass rejects a value.
    """
    name = config_class.__name__
    for key, supported in only.items():
        allowed = supported if isinstance(supported, tuple) else (supported,)
        if key in settings and settings[key] not in allowed:
            raise InputError(
                f"{name}: {key}={settings[key]!r} is not supported, "
                f"expected {' or '.join(map(repr, allowed))}"
            )
    fields = {field.name for field in dataclasses.fields(config_class)}
    return config_class(**{k: _frozen(v) for k, v in settings.items() if k in fields})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def per_block(value: int | tuple[int, ...], count: int, name: str) -> tuple[int, ...]:
    """One integer per block; a single integer applies to all of them.

    Raises:
      InputError: if the count differs, or an entry is itself a list.
    """
    values = (value,) * count if isinstance(value, int) else tuple(value)
    if len(values) != count or not all(isinstance(item, int) for item in values):
        raise InputError(f"{name}={value!r} must be an integer, or one for each of {count} blocks")
    return values
