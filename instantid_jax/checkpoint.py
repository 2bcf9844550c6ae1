"""Converted models: folders in Orbax's format.

A converted model:

    instantid_jax.json                  format, components, pipeline settings, the recognizer with
                                        whose faces it was trained unless that is antelopev2's, and
                                        the size and CRC-32 of every parameter file
    <component>/config.json             the network's configuration
    <component>/params/                 its parameters under our names, each in its own dtype
    scheduler/scheduler_config.json
    tokenizer/, tokenizer_2/
"""

import contextlib
import functools
import math
import shutil
import signal
import threading
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from instantid_jax.atomic import new_folder
from instantid_jax.components import Component, ModelSource, component_shapes, network
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json, write_json
from instantid_jax.params import Params, mismatches
from instantid_jax.paths import utf8_path

INDEX = "instantid_jax.json"
FORMAT = 1
# By default Orbax holds a second copy of all arrays in flight while reading.
IN_FLIGHT_BYTES = 100_000_000


def save_model(
    model: ModelSource,
    path: Path,
    dtype: jnp.dtype | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[str]:
    """Writes a model one component at a time; yields each name before writing the component.

    Holds at most one component in memory. Leaves nothing behind if the iteration ends early.

    Args:
      dtype: dtype of the saved parameters; None keeps each tensor's dtype.
      more: further entries of the index.
    Raises:
      FileExistsError: if `path` exists and is not an empty folder.
      InputError: if a component cannot be read, or the disk is full.
    """
    with new_folder(utf8_path(path)) as folder:
        for name, component in model.components.items():
            yield name
            place = _place(folder, name)
            place.mkdir(parents=True)
            write_json(place / "config.json", component.settings)
            save_params(component.load(dtype), place / "params")
        write_json(
            folder / INDEX,
            {
                **more,
                "format": FORMAT,
                "components": list(model.components),
                "force_zeros_for_empty_prompt": model.force_zeros_for_empty_prompt,
                "guidance_scale": model.guidance_scale,
                "sides": model.sides,
                "files": {
                    str(file.relative_to(folder)): [file.stat().st_size, _crc32(file)]
                    for file in _parameter_files(folder)
                },
            },
        )
        (folder / "scheduler").mkdir()
        write_json(folder / "scheduler" / "scheduler_config.json", model.scheduler)
        for source, name in zip(model.tokenizers, ("tokenizer", "tokenizer_2"), strict=True):
            shutil.copytree(source, folder / name)


def open_model(path: Path) -> ModelSource:
    """Opens a folder that `save_model` wrote; reads configurations, not weights.

    Raises:
      InputError: if the folder is not a converted model, is damaged, or has another format.
    """
    path = utf8_path(path)
    index = _read_index(path)
    for name, (size, _) in index["files"].items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes, expected {size}"
            raise InputError(f"{path} is damaged: {name} {what}; copy or convert it again")
    components = {}
    for name in index["components"]:
        place = _place(path, name)
        settings = read_json(place / "config.json")
        net = components["unet"].network if name == "ip_adapter" else network(name, settings)
        wanted = component_shapes(name, net)
        load = functools.partial(load_params, place / "params", wanted)
        components[name] = Component(net, settings, load, str(place))
    return ModelSource(
        components,
        read_json(path / "scheduler" / "scheduler_config.json"),
        (path / "tokenizer", path / "tokenizer_2"),
        bool(index["force_zeros_for_empty_prompt"]),
        # Folders of the first versions name neither.
        index.get("guidance_scale"),
        tuple(sides) if (sides := index.get("sides")) else None,
    )


def _read_index(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(f"{path}: no such folder; give one that `python -m convert to-jax` made")
    if not (path / INDEX).is_file():
        raise InputError(
            f"{path} is not a converted model (it has no {INDEX}): give a folder that "
            "`python -m convert to-jax` made"
        )
    index = read_json(path / INDEX)
    if index.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {index.get('format')!r}, expected {FORMAT}: convert it again"
        )
    return index


def check_values(path: Path) -> None:
    """Verifies a model's parameter files against the checksums recorded when it was written.

    Orbax itself does not detect corrupted values.

    Raises:
      InputError: naming the first file that differs.
    """
    for name, (_, crc) in _read_index(path)["files"].items():
        if _crc32(path / name) != crc:
            raise InputError(
                f"{path} is damaged: the checksum of {name} has changed since it was written; copy "
                "or convert it again"
            )


def save_params(params: Params, path: Path) -> None:
    """Writes one flat dictionary of arrays.

    Raises:
      InputError: if the disk is full.
    """
    size = sum(array.nbytes for array in params.values())
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise InputError(
            f"not enough disk space for {path.parent.name}: {size / 1e9:.1f} GB needed, "
            f"{free / 1e9:.1f} GB free; free some space, or write to another disk"
        )
    # Weights hardly compress, and uncompressed data is written without a copy.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False)
    with _uninterrupted(), ocp.Checkpointer(handler) as saver:
        saver.save(path.absolute(), args=ocp.args.PyTreeSave(params))


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Defers SIGINT and SIGTERM while Orbax writes.

    Otherwise its threads would keep writing while the folder is being removed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, lambda number, _: held.append(number)) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
        for number in held:
            signal.raise_signal(number)


def load_params(
    path: Path,
    wanted: dict[str, jax.ShapeDtypeStruct],
    dtype: jnp.dtype | None = None,
    chosen: Collection[str] | None = None,
) -> Params:
    """Reads the arrays that `save_params` wrote onto the first local device.

    Args:
      wanted: the required names and shapes.
      dtype: dtype of the result; None keeps each array's dtype.
      chosen: names of those to read; None reads all.
    Raises:
      InputError: if names or shapes differ, or the data cannot be read.
    """
    found = stored_params(path)
    faults = mismatches(
        {name: tuple(want.shape) for name, want in wanted.items()},
        {name: tuple(array.shape) for name, array in found.items()},
    )
    if faults:
        raise InputError(
            f"{path} does not fit its configuration: {'; '.join(faults)}; convert it again"
        )
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    read = list(found if chosen is None else chosen)
    if not read:
        return {}
    dtypes = {name: jnp.dtype(found[name].dtype if dtype is None else dtype) for name in read}
    how = {
        name: ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding, dtype=each)
        for name, each in dtypes.items()
    }
    # Orbax rejects an array of at least its limit, counted in the target dtype.
    largest = max(math.prod(found[name].shape) * dtypes[name].itemsize for name in read)
    limit = max(IN_FLIGHT_BYTES, largest + 1)
    handler = ocp.PyTreeCheckpointHandler(
        # Orbax annotates an int but accepts fractions of a GB.
        restore_concurrent_gb=limit / 10**9  # pyright: ignore[reportArgumentType]
    )
    with _readable(path), ocp.Checkpointer(handler) as restorer:
        # Only the names of an item count.
        wanted_item = dict.fromkeys(read, 0)
        args = ocp.args.PyTreeRestore(item=wanted_item, restore_args=how, partial_restore=True)
        return restorer.restore(path.absolute(), args=args)


def stored_params(path: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Names, shapes and dtypes of the arrays that `save_params` wrote, without their values.

    Raises:
      InputError: if they cannot be read.
    """
    with _readable(path), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(path.absolute()).item_metadata.tree
        return {
            name: jax.ShapeDtypeStruct(tuple(array.shape), array.dtype)
            for name, array in tree.items()
        }


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns Orbax's exceptions for a damaged folder into an InputError."""
    try:
        yield
    except Exception as error:  # Orbax raises bare Exceptions for missing data
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} cannot be read ({reason}); convert the model again") from error


def _parameter_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("params/**/*") if p.is_file())


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            crc = zlib.crc32(part, crc)
    return crc


def _place(folder: Path, component: str) -> Path:
    return folder.joinpath(*component.split("."))
