"""InstantID out of the folder of a training run: found, checked, and read part by part."""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.components import Component, component_shapes, network
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json
from instantid_jax.params import Network, Params, mismatches
from instantid_jax.runs.folder import RunFolder, is_run
from instantid_jax.weights.layouts import find_instantid, read_params
from instantid_jax.weights.tensors import LazyTensor

logger = logging.getLogger(__name__)

# Those of the first kind have networks of their own; the adapter's is the base model's UNet.
CONFIGURED = ("image_proj", "controlnet")
PARTS = ("image_proj", "ip_adapter", "controlnet")


@dataclasses.dataclass(frozen=True)
class Trained:
    """InstantID as a run trained it, found but not read.

    Attributes:
      step: of the checkpoint.
      raw: whether the parameters themselves are wanted, even where there is their moving average.
      settings: of `CONFIGURED`, as in networks.json.
      networks: of `CONFIGURED`.
      shapes: of the parameters of each of `PARTS`, under the part's own names.
    """

    run: RunFolder
    step: int
    raw: bool
    settings: Mapping[str, Mapping[str, Any]]
    networks: Mapping[str, Network]
    shapes: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]

    def load(self, part: str, dtype: jnp.dtype | None = None) -> Params:
        """Reads one of `PARTS` onto the default device, and no other array.

        Args:
          dtype: of the result; None keeps the run's own, float32.
        Raises:
          InputError: if the checkpoint is damaged, or gone, or a number too large for `dtype`.
        """
        from instantid_jax.runs.restoring import restore_weights  # Orbax is slow to import

        prefix = f"{part}."
        stored = restore_weights(self.run, raw=self.raw, prefix=prefix, step=self.step)
        params = {name.removeprefix(prefix): value for name, value in stored.items()}
        if dtype is None:
            return params
        # `params` alone holds the arrays then, and each goes as it is cast.
        del stored
        tensors = {
            name: LazyTensor(
                value.shape, value.dtype, lambda name=name: np.asarray(params.pop(name))
            )
            for name, value in params.items()
        }
        return read_params(tensors, dtype)

    def components(self, unet: Network) -> dict[str, Component]:
        """The parts of a model with this UNet, as `weights.layouts.find_instantid` gives them.

        Raises:
          InputError: if the adapter was trained on a UNet of another shape.
        """
        faults = _misfit(component_shapes("ip_adapter", unet), self.shapes["ip_adapter"])
        if faults:
            raise InputError(
                f"{self.run.path} does not fit this UNet: its adapter has {faults}; use the base "
                "model it was trained on, or one of the same sizes"
            )
        networks = {**self.networks, "ip_adapter": unet}
        source = f"{self.run.path}, step {self.step}"
        return {
            part: Component(
                networks[part],
                self.settings.get(part, {}),
                functools.partial(self.load, part),
                source,
            )
            for part in PARTS
        }


def open_trained(path: Path, *, raw: bool = False, step: int | None = None) -> Trained:
    """Finds what a run trained; reads configurations and names, not weights. Logs what it found.

    Args:
      path: the run's folder.
      raw: the parameters themselves, even where there is their moving average.
      step: which checkpoint; None is the newest.
    Raises:
      InputError: if there is none, it is damaged, or it does not fit networks.json.
    """
    from instantid_jax.runs.restoring import stored_weights  # Orbax is slow to import

    run = RunFolder(path)
    stored = stored_weights(run, raw=raw, step=step)
    settings, networks = _read_networks(run)
    shapes: dict[str, dict[str, jax.ShapeDtypeStruct]] = {part: {} for part in PARTS}
    for name, shape in stored.shapes.items():
        part, _, own = name.partition(".")
        if part not in shapes:
            raise InputError(
                f"step {stored.step} of {path} holds {name}: expected only {', '.join(PARTS)}; "
                "pass a run that trained InstantID"
            )
        shapes[part][own] = shape
    for part, net in networks.items():
        faults = _misfit(net.shapes, shapes[part])
        if faults:
            raise InputError(
                f"step {stored.step} of {path} does not fit its {run.networks.name}: {part} has "
                f"{faults}; copy the whole run folder again"
            )
    weights = "the moving average" if stored.averaged else "the raw parameters"
    logger.info("%s: step %d, %s", path, stored.step, weights)
    return Trained(run, stored.step, raw, settings, networks, shapes)


def find_published_or_trained(
    source: str, unet: Network, *, variant: str | None = None, raw: bool = False
) -> dict[str, Component]:
    """The parts of InstantID from a training run's folder, or from what `find_instantid` takes.

    Args:
      variant: of published files; a run has none.
      raw: of a run's folder, as for `open_trained`.
    Raises:
      InputError: if something is missing, damaged or does not fit, or `raw` without a run.
    """
    check_raw(raw, source)
    if is_run(Path(source)):
        return open_trained(Path(source), raw=raw).components(unet)
    return find_instantid(source, unet, variant=variant)


def check_raw(raw: bool, instantid: str | None) -> None:
    """Refuses `raw` where there is nothing to choose between."""
    if raw and (instantid is None or not is_run(Path(instantid))):
        raise InputError(
            f"raw with instantid={instantid!r}: only the folder of a training run has raw "
            "parameters besides their moving average; leave raw out, or pass such a folder"
        )


def _read_networks(run: RunFolder) -> tuple[dict[str, Mapping[str, Any]], dict[str, Network]]:
    """The settings in networks.json, and the networks that they describe."""
    if not run.networks.is_file():
        raise InputError(
            f"{run.path} has no {run.networks.name}, which records the sizes of what was trained: "
            "copy the whole run folder again"
        )
    found = read_json(run.networks)
    settings, networks = {}, {}
    for part in CONFIGURED:
        try:
            settings[part] = found[part]
            networks[part] = network(part, found[part])
        except (AttributeError, InputError, KeyError, TypeError) as error:
            raise InputError(
                f"{run.networks} does not configure {part} ({error}): copy the whole run "
                "folder again"
            ) from error
    return settings, networks


def _misfit(
    wanted: Mapping[str, jax.ShapeDtypeStruct], found: Mapping[str, jax.ShapeDtypeStruct]
) -> str:
    """How two sets of parameters differ in names and shapes; empty where they do not."""
    want, got = ({n: tuple(a.shape) for n, a in each.items()} for each in (wanted, found))
    return "; ".join(mismatches(want, got, limit=1))
