"""Contents of a checkpoint: a state's arrays by name, their checksums, and their provenance."""

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
    """Versions of Python and of the packages that determine a run's numbers."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """The provenance of a checkpoint.

    Attributes:
      fingerprint: identifies a run: a short text each for its configuration, data and base weights.
      seed: the run's seed.
      position: the step of the next batch; the data are a function of the seed, the step and
        `batch_sizes`.
      batch_sizes: first step and size of each global batch size so far, in order; empty if it was
        not recorded, because it never changed.
      versions: versions of the packages that wrote the checkpoint.
    """

    fingerprint: Mapping[str, str]
    seed: int
    position: int
    batch_sizes: tuple[tuple[int, int], ...] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=installed_versions)


def named_arrays(state: Any) -> dict[str, Any]:
    """The leaves of a pytree by readable names, such as "opt_state/1/0/mu/conv_in.kernel"."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in named:
            raise ValueError(f"two arrays of the state are called {name}")
        named[name] = leaf
    return named


@jax.jit
def _checksum(array: jax.Array) -> jax.Array:
    """Sum of the bits of all elements, each times an odd factor of its position, modulo 2**32.

    Odd factors are invertible modulo 2**32, so changing any one element changes the sum. Integer
    sums do not depend on their order, hence not on the array's sharding.
    """
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        stride = jnp.uint32(math.prod(bits.shape[axis + 1 :]) % 2**32)
        place = place + stride * jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    # Neighbors get unrelated factors, which also detects moved and lost blocks.
    place = (place + jnp.uint32(1)) * jnp.uint32(0x9E3779B1)
    place = (place ^ (place >> jnp.uint32(15))) * jnp.uint32(0x85EBCA77)
    factors = (place ^ (place >> jnp.uint32(13))) | jnp.uint32(1)
    return jnp.sum(bits * factors, dtype=jnp.uint32)


def checksums(arrays: Mapping[str, jax.Array]) -> dict[str, int]:
    """A checksum of each array's bits, computed on its devices; the same on any mesh."""
    # One at a time: on CPU, concurrent programs that each wait for all devices can deadlock.
    return {name: int(_checksum(array)) for name, array in arrays.items()}


def describe(step: int, arrays: Mapping[str, jax.Array], meta: Meta) -> dict[str, Any]:
    """The JSON description saved with a checkpoint's arrays."""
    sums = checksums(arrays)
    settings = {
        "format": FORMAT,
        "step": step,
        "fingerprint": dict(meta.fingerprint),
        "seed": meta.seed,
        "position": meta.position,
        "batch_sizes": [list(each) for each in meta.batch_sizes],
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
    """Reads a description that `describe` made.

    Raises:
      InputError: if the file is damaged, missing, or of another format.
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
        # Absent in older checkpoints.
        batch_sizes=tuple((step, size) for step, size in description.get("batch_sizes", ())),
        versions=description["versions"],
    )


def _crc32(settings: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(settings, sort_keys=True).encode())
