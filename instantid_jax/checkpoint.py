"""Folders in Orbax's format, and what lies where in them.

A converted model:

    instantid_jax.json                  format, components, pipeline settings
    <component>/config.json             the network's configuration
    <component>/params/                 its parameters under our names, each in its own dtype
    scheduler/scheduler_config.json
    tokenizer/, tokenizer_2/
"""

import functools
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from instantid_jax.atomic import new_folder
from instantid_jax.components import Component, Model, component_shapes, network
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json, write_json
from instantid_jax.params import Params, mismatches

logger = logging.getLogger(__name__)

INDEX = "instantid_jax.json"
FORMAT = 1
# Orbax would hold a second copy of all arrays in flight; this keeps the peak near the weights.
CONCURRENT_GB = 0.1


def save_model(model: Model, path: Path, dtype: jnp.dtype | None = None) -> Iterator[str]:
    """Writes a model, component by component; yields each one's name before it is written.

    At most one component is in memory. Nothing is left behind when the iteration ends early.

    Args:
      dtype: of the saved parameters; None keeps each tensor's own.
    Raises:
      FileExistsError: if `path` exists and is not an empty folder.
    """
    with new_folder(path) as folder:
        for name, component in model.components.items():
            yield name
            place = _place(folder, name)
            place.mkdir(parents=True)
            write_json(place / "config.json", component.settings)
            save_params(component.load(dtype), place / "params")
        write_json(
            folder / INDEX,
            {
                "format": FORMAT,
                "components": list(model.components),
                "force_zeros_for_empty_prompt": model.force_zeros_for_empty_prompt,
            },
        )
        (folder / "scheduler").mkdir()
        write_json(folder / "scheduler" / "scheduler_config.json", model.scheduler)
        for source, name in zip(model.tokenizers, ("tokenizer", "tokenizer_2"), strict=True):
            shutil.copytree(source, folder / name)


def open_model(path: Path) -> Model:
    """Opens a folder that `save_model` wrote; reads configurations, not weights.

    Raises:
      InputError: if the folder is another thing, or of a newer format.
    """
    if not (path / INDEX).is_file():
        raise InputError(
            f"{path} is no converted model (it has no {INDEX}): make one with "
            "`python -m convert to-jax`, or give PyTorch's files as sdxl and instantid"
        )
    index = read_json(path / INDEX)
    if index.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {index.get('format')!r}, expected {FORMAT}: convert it again"
        )
    components = {}
    for name in index["components"]:
        place = _place(path, name)
        settings = read_json(place / "config.json")
        net = components["unet"].network if name == "ip_adapter" else network(name, settings)
        wanted = component_shapes(name, net)
        load = functools.partial(load_params, place / "params", wanted)
        components[name] = Component(net, settings, load, str(place))
    return Model(
        components,
        read_json(path / "scheduler" / "scheduler_config.json"),
        (path / "tokenizer", path / "tokenizer_2"),
        bool(index["force_zeros_for_empty_prompt"]),
    )


def save_params(params: Params, path: Path) -> None:
    """Writes one flat dictionary of arrays."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(save_concurrent_gb=CONCURRENT_GB)) as saver:
        saver.save(path.absolute(), args=ocp.args.PyTreeSave(params))


def load_params(
    path: Path, wanted: dict[str, jax.ShapeDtypeStruct], dtype: jnp.dtype | None = None
) -> Params:
    """Reads the arrays that `save_params` wrote, onto the default device.

    Args:
      wanted: names and shapes they must have.
      dtype: of the result; None keeps each array's own.
    Raises:
      InputError: if names or shapes differ, or the data cannot be read.
    """
    handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=CONCURRENT_GB)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.Checkpointer(handler) as restorer:
        try:
            found = restorer.metadata(path.absolute()).item_metadata.tree
            faults = mismatches(
                {name: tuple(want.shape) for name, want in wanted.items()},
                {name: tuple(array.shape) for name, array in found.items()},
            )
            if not faults:
                how = {
                    name: ocp.ArrayRestoreArgs(
                        restore_type=jax.Array, sharding=sharding, dtype=dtype or array.dtype
                    )
                    for name, array in found.items()
                }
                return restorer.restore(
                    path.absolute(), args=ocp.args.PyTreeRestore(restore_args=how)
                )
        except (OSError, ValueError, KeyError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{path} cannot be read ({reason}); convert the model again"
            ) from error
    raise InputError(
        f"{path} does not fit its configuration: {'; '.join(faults)}; convert it again"
    )


def _place(folder: Path, component: str) -> Path:
    return folder.joinpath(*component.split("."))
