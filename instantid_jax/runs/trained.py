"""Finds and reads the InstantID weights of a training run, part by part."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.components import Component, component_shapes, network
from instantid_jax.errors import InputError
from instantid_jax.json_files import read_json
from instantid_jax.params import Network, Params, mismatches
from instantid_jax.paths import utf8_path
from instantid_jax.runs.folder import RunFolder, is_run
from instantid_jax.runs.trained_lora import DOWN, LORA, UP, merged
from instantid_jax.weights.layouts import find_instantid
from instantid_jax.weights.reading import read_params
from instantid_jax.weights.tensors import LazyTensor

logger = logging.getLogger(__name__)

# Parts with their own network; the adapter belongs to the base model's UNet.
CONFIGURED = ("image_proj", "controlnet")
PARTS = ("image_proj", "ip_adapter", "controlnet")
# Key in networks.json of the source of weights that the run did not train, or trained a LoRA of.
FROZEN = "frozen"


@dataclasses.dataclass(frozen=True)
class Trained:
    """The InstantID weights of a run, located but not read.

    Attributes:
      step: step of the checkpoint.
      raw: whether to take the parameters even if there is a moving average.
      averaged: whether these are the moving average.
      settings: settings of `CONFIGURED`, as in networks.json.
      networks: networks of `CONFIGURED`.
      shapes: parameter shapes of each of `PARTS`, by the part's own names.
      frozen: the components that the run did not train, or trained a LoRA of.
      lora: those of `PARTS` of which it trained a LoRA.
    """

    run: RunFolder
    step: int
    raw: bool
    averaged: bool
    settings: Mapping[str, Mapping[str, Any]]
    networks: Mapping[str, Network]
    shapes: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]
    frozen: Mapping[str, Component]
    lora: frozenset[str]

    def load(self, part: str, dtype: jnp.dtype | None = None) -> Params:
        """Reads one of `PARTS` onto the default device.

        Args:
          dtype: dtype of the result; None keeps that of the stored weights, float32 where they were
            trained.
        Raises:
          InputError: if the checkpoint is damaged or missing, or a value too large for `dtype`.
        """
        from instantid_jax.runs.restoring import restore_weights  # Orbax is slow to import

        if part in self.frozen and part not in self.lora:
            return self.frozen[part].load(dtype)
        prefix = f"{part}."
        stored = restore_weights(self.run, raw=self.raw, prefix=prefix, step=self.step)
        if part in self.lora:
            base = self.frozen[part]
            stored = merged(base.network, base.load(jnp.dtype("float32")), stored, part)
        params = {name.removeprefix(prefix): value for name, value in stored.items()}
        if dtype is None:
            return params
        # Only `params` then refers to the arrays, so each is freed once it is cast.
        del stored
        tensors = {
            name: LazyTensor(
                value.shape, value.dtype, lambda name=name: np.asarray(params.pop(name))
            )
            for name, value in params.items()
        }
        return read_params(tensors, dtype)

    def components(self, unet: Network) -> dict[str, Component]:
        """The components for a model with this UNet, like `weights.layouts.find_instantid`.

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
    """Finds a run's weights and logs which; reads configurations and names, not weights.

    Args:
      path: the run's folder.
      raw: take the parameters even if there is a moving average.
      step: step of the checkpoint; None takes the newest.
    Raises:
      InputError: if there is no checkpoint, it is damaged, or it does not fit networks.json.
    """
    from instantid_jax.runs.restoring import stored_weights  # Orbax is slow to import

    run = RunFolder(utf8_path(path))
    stored = stored_weights(run, raw=raw, step=step)
    settings, networks = read_networks(run)
    frozen = _find_frozen(run)
    lora = set()
    shapes: dict[str, dict[str, jax.ShapeDtypeStruct]] = {part: {} for part in PARTS}
    for name, shape in stored.shapes.items():
        part, _, own = name.partition(".")
        if name.startswith(LORA):
            raise InputError(
                f"{path} trained a LoRA, not InstantID: `python -m convert to-torch {path} "
                "--output DIR` writes it, for --lora DIR"
            )
        if part not in shapes:
            raise InputError(
                f"step {stored.step} of {path} holds {name}: expected only {', '.join(PARTS)}; "
                "pass a run that trained InstantID"
            )
        if own.endswith((f".{DOWN}", f".{UP}")):
            lora.add(part)
        else:
            shapes[part][own] = shape
    for part, component in frozen.items():
        shapes[part] = component_shapes(part, component.network)
    for part, net in networks.items():
        faults = _misfit(net.shapes, shapes[part])
        if faults:
            raise InputError(
                f"step {stored.step} of {path} does not fit its {run.networks.name}: {part} has "
                f"{faults}; copy the whole run folder again"
            )
    weights = "the raw parameters" if raw else "the parameters, which have no moving average"
    weights = "the moving average" if stored.averaged else weights
    logger.info("%s: step %d, %s", path, stored.step, weights)
    return Trained(
        *(run, stored.step, raw, stored.averaged, settings, networks, shapes),
        *(frozen, frozenset(lora)),
    )


def frozen_source(
    instantid: str, parts: Sequence[str], unet: Mapping[str, Any], variant: str | None
) -> dict[str, Any]:
    """The entry of networks.json under `FROZEN`.

    Args:
      instantid: source of weights that the run does not train, or trains a LoRA of.
      parts: which of `PARTS` these are.
      unet: `config.json` of the base model's UNet.
      variant: variant of published files.
    """
    path = Path(instantid)
    return {
        # A command may later run in another folder.
        "instantid": str(path.absolute()) if path.exists() else instantid,
        "variant": variant,
        # The source may be trained further.
        "step": RunFolder(path).steps()[-1] if is_run(path) else None,
        "parts": list(parts),
        "unet": unet,
    }


def _find_frozen(run: RunFolder) -> dict[str, Component]:
    """The components that a run did not train, or trained a LoRA of, from networks.json."""
    frozen = read_json(run.networks).get(FROZEN)
    if frozen is None:
        return {}
    source, unet = frozen["instantid"], network("unet", frozen["unet"])
    try:
        found = find_published_or_trained(
            source, unet, variant=frozen["variant"], step=frozen["step"]
        )
    except InputError as error:
        raise InputError(
            f"{run.path} did not train {', '.join(frozen['parts'])}, whose weights are those of "
            f"{source}: {error}; put them back, or name their place in {run.networks}"
        ) from error
    return {part: found[part] for part in frozen["parts"]}


def find_published_or_trained(
    source: str,
    unet: Network,
    *,
    variant: str | None = None,
    raw: bool = False,
    step: int | None = None,
) -> dict[str, Component]:
    """InstantID's components from a training run, or from any source of `find_instantid`.

    Args:
      variant: variant of published files; runs have none.
      raw, step: for a training run, as for `open_trained`.
    Raises:
      InputError: if a part is missing, damaged or does not fit, or for `raw` without a run.
    """
    check_raw(raw, source)
    if is_run(Path(source)):
        return open_trained(Path(source), raw=raw, step=step).components(unet)
    return find_instantid(source, unet, variant=variant)


def check_raw(raw: bool, instantid: str | None) -> None:
    """Refuses `raw` without a training run."""
    if raw and (instantid is None or not is_run(Path(instantid))):
        raise InputError(
            f"raw parameters of {instantid or 'no instantid'}: only the folder of a training run "
            "has them besides their moving average; leave raw out, or pass such a folder as "
            "instantid"
        )


def read_networks(run: RunFolder) -> tuple[dict[str, Mapping[str, Any]], dict[str, Network]]:
    """The settings in networks.json, and their networks.

    Raises:
      InputError: if the file is missing or damaged.
    """
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
    """How two sets of parameters differ in names and shapes; empty if they agree."""
    want, got = ({n: tuple(a.shape) for n, a in each.items()} for each in (wanted, found))
    return "; ".join(mismatches(want, got, limit=1))
