"""What a checkpoint holds: a state's arrays by name, their checksums, and where they come from."""

import dataclasses
import importlib.metadata
import json
import math
import platform
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json

FORMAT = 1
META_FILE = "meta.json"
PACKAGES = ("instantid-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """Where a checkpoint comes from.

    Attributes:
      fingerprint: by what a run is recognised (its configuration, its data, its base weights),
        each a short text that differs where they differ.
      seed: of the run.
      position: the step whose batch comes next; the data are a function of (seed, step).
      versions: of the packages that wrote it.
    """

    fingerprint: Mapping[str, str]
    seed: int
    position: int
    versions: Mapping[str, str] = dataclasses.field(default_factory=installed_versions)


def named_arrays(state: Any) -> dict[str, Any]:
    """The leaves of any pytree by readable names, such as "opt_state/1/0/mu/conv_in.kernel"."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in named:
            raise ValueError(f"two arrays of the state are called {name}")
        named[name] = leaf
    return named


@jax.jit
def _checksum(array: jax.Array) -> jax.Array:
    """Sum of the bits of all elements, each times an odd number of its place, modulo 2**32.

    Odd factors have inverses modulo 2**32, so that a change of any one element changes the sum;
    sums of integers do not depend on their order, hence not on how the array is distributed.
    """
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        stride = jnp.uint32(math.prod(bits.shape[axis + 1 :]) % 2**32)
        place = place + stride * jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    # Neighbours get unrelated factors: moved and lost blocks show as well.
    place = (place + jnp.uint32(1)) * jnp.uint32(0x9E3779B1)
    place = (place ^ (place >> jnp.uint32(15))) * jnp.uint32(0x85EBCA77)
    factors = (place ^ (place >> jnp.uint32(13))) | jnp.uint32(1)
    return jnp.sum(bits * factors, dtype=jnp.uint32)


def checksums(arrays: Mapping[str, jax.Array]) -> dict[str, int]:
    """A checksum of each array's bits, computed where it lies; the same on any mesh."""
    # One after the other: of many programs at once, each of which waits for all devices, those of a
    # CPU may come to wait for each other.
    return {name: int(_checksum(array)) for name, array in arrays.items()}


def describe(step: int, arrays: Mapping[str, jax.Array], meta: Meta) -> dict[str, Any]:
    """The JSON object that lies beside a checkpoint's arrays."""
    sums = checksums(arrays)
    settings = {
        "format": FORMAT,
        "step": step,
        "fingerprint": dict(meta.fingerprint),
        "seed": meta.seed,
        "position": meta.position,
        "versions": dict(meta.versions),
        "arrays": {
            name: {
                "shape": list(array.shape),
                "dtype": jnp.dtype(array.dtype).name,
                "checksum": sums[name],
            }
            for name, array in arrays.items()
        },
    }
    return {**settings, "crc32": _crc32(settings)}


def read_description(path: Path) -> dict[str, Any]:
    """Reads what `describe` made.

    Raises:
      InputError: if the file is damaged, missing, or of a newer format.
    """
    settings = read_json(path)
    crc32 = settings.pop("crc32", None)
    if crc32 != _crc32(settings):
        raise InputError(f"{path} does not match its checksum")
    if settings["format"] != FORMAT:
        raise InputError(f"{path} has format {settings['format']}, expected {FORMAT}")
    return settings


def stored_arrays(description: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Names, shapes and dtypes of a checkpoint's arrays."""
    return {
        name: jax.ShapeDtypeStruct(tuple(array["shape"]), jnp.dtype(array["dtype"]))
        for name, array in description["arrays"].items()
    }


def stored_meta(description: Mapping[str, Any]) -> Meta:
    return Meta(
        fingerprint=description["fingerprint"],
        seed=description["seed"],
        position=description["position"],
        versions=description["versions"],
    )


def _crc32(settings: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(settings, sort_keys=True).encode())
