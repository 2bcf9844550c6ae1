"""Restores the checkpoints of a run onto any mesh and verifies them: whole states or weights."""

import logging
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from instantid_jax.errors import InputError
from instantid_jax.params import Params, mismatches
from instantid_jax.runs.contents import (
    META_FILE,
    Meta,
    checksums,
    named_arrays,
    read_description,
    stored_arrays,
    stored_meta,
)
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.orbax_logging import let_tasks_end, quiet_orbax
from instantid_jax.stacks import unstack, unstack_shapes

logger = logging.getLogger(__name__)

T = TypeVar("T")
# By default Orbax holds a second copy of all arrays in flight while reading.
IN_FLIGHT_BYTES = 100_000_000
# Name prefixes of groups of arrays.
AVERAGE = "ema/"
PARAMETERS = "params/"


class Restored(NamedTuple):
    """A restored state, its step and its provenance."""

    step: int
    state: Any
    meta: Meta


class StoredWeights(NamedTuple):
    """The trainables in a checkpoint.

    Attributes:
      averaged: whether they are the moving average.
      shapes: shapes and dtypes by torch's names.
    """

    step: int
    averaged: bool
    shapes: dict[str, jax.ShapeDtypeStruct]


class DamagedError(InputError):
    """A checkpoint cannot be read, or differs from what was saved."""


def restore(
    run: RunFolder,
    template: Any,
    *,
    step: int | None = None,
    allow_older: bool = False,
    fingerprint: Mapping[str, str] | None = None,
    ignore_fingerprint: bool | None = False,
    changes: Collection[str] = (),
    changeable: Collection[str] = (),
) -> Restored:
    """Restores a whole state; every process of a run must call it.

    Args:
      template: the state with a `jax.ShapeDtypeStruct` for each array, with shardings, which may
        differ from those it was saved with.
      step: step of the checkpoint; None takes the newest.
      allow_older: if the newest checkpoint is damaged, fall back to the newest intact one.
      fingerprint: the run's current fingerprint; None skips the comparison.
      ignore_fingerprint: log a difference as a warning instead of raising. None if the program
        has no such option, which an error would otherwise name.
      changes: entries of the fingerprint that may differ.
      changeable: entries that `--change` could name; an error says so.
    Raises:
      InputError: if there is no checkpoint, or it is damaged or has other arrays or another
        fingerprint.
    """

    def read(step: int) -> Restored:
        description = _description(run, step)
        meta = stored_meta(description)
        wanted = named_arrays(template)
        # First, because a changed setting often changes the arrays.
        if fingerprint is not None:
            different = _differences(fingerprint, meta.fingerprint, changes)
            _check_differences(run, step, different, ignore_fingerprint, changeable)
        _check_fit(run, step, wanted, stored_arrays(description))
        arrays = _read_arrays(run, step, description, wanted)
        return Restored(
            step, jax.tree.unflatten(jax.tree.structure(template), arrays.values()), meta
        )

    return _newest_sound(run, step, allow_older, read)


def restore_weights(
    run: RunFolder,
    *,
    raw: bool = False,
    prefix: str = "",
    step: int | None = None,
) -> Params:
    """Restores only the trainables of a run, by torch's names, onto the default device.

    Args:
      raw: restore the parameters even if there is a moving average.
      prefix: restore only names with this prefix.
      step: as for `restore`.
    Raises:
      InputError: as `restore`.
    """

    def read(step: int) -> Params:
        description = _description(run, step)
        group, stored = _trainables(run, step, description, raw)
        wanted = {n: array for n, array in stored.items() if n.startswith(group + prefix)}
        arrays = _read_arrays(run, step, description, wanted)
        return unstack({name.removeprefix(group): value for name, value in arrays.items()})

    return _newest_sound(run, step, False, read)


def stored_weights(run: RunFolder, *, raw: bool = False, step: int | None = None) -> StoredWeights:
    """The trainables that `restore_weights` would read, from the checkpoint's description.

    Raises:
      InputError: as `restore`, but damaged arrays are not detected.
    """

    def read(step: int) -> StoredWeights:
        group, stored = _trainables(run, step, _description(run, step), raw)
        shapes = {name.removeprefix(group): array for name, array in stored.items()}
        return StoredWeights(step, group == AVERAGE, unstack_shapes(shapes))

    return _newest_sound(run, step, False, read)


def newest_meta(run: RunFolder) -> Meta:
    """The provenance of the newest checkpoint, from its description.

    Raises:
      InputError: as `restore`, but damaged arrays are not detected.
    """
    return _newest_sound(run, None, False, lambda step: stored_meta(_description(run, step)))


def _trainables(
    run: RunFolder, step: int, description: Mapping[str, Any], raw: bool
) -> tuple[str, dict[str, jax.ShapeDtypeStruct]]:
    """The prefix of the moving average or the parameters, and the arrays with it."""
    stored = stored_arrays(description)
    averaged = not raw and any(name.startswith(AVERAGE) for name in stored)
    group = AVERAGE if averaged else PARAMETERS
    stored = {name: array for name, array in stored.items() if name.startswith(group)}
    if not stored:
        raise InputError(f"{_place(run, step)} holds no parameters: pass a run of this project")
    return group, stored


def _newest_sound(
    run: RunFolder, step: int | None, allow_older: bool, read: Callable[[int], T]
) -> T:
    steps = run.steps()
    if step is None and not steps:
        raise InputError(f"{run.path} has no checkpoint: pass the folder of a run that saved one")
    if step is not None and step not in steps:
        raise InputError(
            f"{run.path} has no checkpoint of step {step}, only of {_listed(steps)}: choose one"
        )
    if step is not None or not allow_older:
        return read(steps[-1] if step is None else step)
    for candidate in reversed(steps):
        try:
            return read(candidate)
        except DamagedError as error:
            logger.warning("%s", error)
    raise InputError(f"{run.path} has no intact checkpoint: all of {_listed(steps)} are damaged")


def _description(run: RunFolder, step: int) -> dict[str, Any]:
    description, fault = None, None
    try:
        description = read_description(_place(run, step) / "meta" / META_FILE)
    except (InputError, KeyError) as error:
        fault = str(error)
    _agree_on_fault(run, step, fault)
    assert description is not None, "a fault raises"
    if description["step"] != step:
        raise _damaged(run, step, f"its metadata says step {description['step']}")
    return description


def _check_fit(
    run: RunFolder,
    step: int,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    stored: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
    faults = mismatches(
        {name: tuple(value.shape) for name, value in wanted.items()},
        {name: tuple(value.shape) for name, value in stored.items()},
    )
    dtypes = [
        f"{name} is {stored[name].dtype}, expected {value.dtype}"
        for name, value in wanted.items()
        if name in stored and stored[name].dtype != value.dtype
    ]
    if dtypes:
        more = ", ..." if len(dtypes) > 4 else ""
        faults.append(f"{len(dtypes)} of another dtype: {', '.join(dtypes[:4])}{more}")
    if faults:
        raise InputError(
            f"{_place(run, step)} holds a different state: {'; '.join(faults)}; "
            "use the configuration it was saved with, or another folder"
        )


def _differences(
    now: Mapping[str, str], saved: Mapping[str, str], changes: Collection[str]
) -> dict[str, str]:
    """How the entries of two fingerprints differ, except those of `changes`."""
    return {
        name: f"{name} was {saved.get(name, 'absent')}, is {now.get(name, 'absent')}"
        for name in sorted({*now, *saved} - set(changes))
        if now.get(name) != saved.get(name)
    }


def _check_differences(
    run: RunFolder,
    step: int,
    differences: Mapping[str, str],
    ignore: bool | None,
    changeable: Collection[str],
) -> None:
    if not differences:
        return
    line = f"{_place(run, step)} was saved by a different run: {'; '.join(differences.values())}"
    if ignore:
        logger.warning("%s", line)
        return
    allowed = [name for name in differences if name in changeable]
    ways = ["revert this"]
    if allowed:
        ways.append(f"allow it with --change {' '.join(allowed)}")
    ways.append("use another folder")
    if ignore is not None:
        ways.append("--ignore-fingerprint")
    raise InputError(f"{line}; {', '.join(ways[:-1])} or {ways[-1]}")


def _read_arrays(
    run: RunFolder,
    step: int,
    description: Mapping[str, Any],
    wanted: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
    """Reads arrays in the order of `wanted` and verifies their checksums."""
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    how = {
        name: ocp.ArrayRestoreArgs(
            restore_type=jax.Array,
            sharding=getattr(value, "sharding", None) or default,
            dtype=value.dtype,
        )
        for name, value in wanted.items()
    }
    largest = max((math.prod(v.shape) * v.dtype.itemsize for v in wanted.values()), default=0)
    # Orbax rejects an array of at least its limit.
    limit = max(IN_FLIGHT_BYTES, largest + 1)
    # Not a checkpointer, which would leave the other processes at a barrier when one fails.
    handler = ocp.PyTreeCheckpointHandler(
        # Orbax annotates an int but accepts fractions of a GB.
        restore_concurrent_gb=limit / 10**9  # pyright: ignore[reportArgumentType]
    )
    arrays, fault = {}, None
    with quiet_orbax():
        try:
            arrays = handler.restore(
                # Orbax annotates etils' paths but accepts pathlib's.
                (_place(run, step) / "state").absolute(),  # pyright: ignore[reportArgumentType]
                args=ocp.args.PyTreeRestore(
                    item=dict(wanted), restore_args=how, partial_restore=True
                ),
            )
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # Orbax raises bare Exceptions too.
            fault = _reason(error, _place(run, step))
        if fault is not None:
            let_tasks_end()
    _agree_on_fault(run, step, fault)
    arrays = {name: arrays[name] for name in wanted}
    saved = {name: description["arrays"][name]["checksum"] for name in wanted}
    bad = [name for name, value in checksums(arrays).items() if value != saved[name]]
    if bad:
        names = f"{', '.join(bad[:4])}{', ...' if len(bad) > 4 else ''}"
        raise _damaged(run, step, f"{len(bad)} array(s) differ from what was saved: {names}")
    return arrays


def _agree_on_fault(run: RunFolder, step: int, fault: str | None) -> None:
    """Raises in all processes if any of them found a fault."""
    if jax.process_count() > 1:
        faulty = multihost_utils.process_allgather(np.asarray(fault is not None))
        if fault is None and faulty.any():
            fault = f"process {int(faulty.argmax())} cannot read it"
    if fault is not None:
        raise _damaged(run, step, fault)


def _damaged(run: RunFolder, step: int, what: str) -> DamagedError:
    others = [other for other in run.steps() if other != step]
    advice = (
        f"convert another step (to-torch --step, of {_listed(others)}), or resume from an older "
        "one (train --allow-older)"
        if others
        else ""
    )
    return DamagedError(
        f"{_place(run, step)}: the checkpoint of step {step} is damaged: {what}; "
        f"{advice or 'there is no other'}"
    )


def _reason(error: Exception, place: Path) -> str:
    """Shortens the messages of Orbax and TensorStore to the array and the reason."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = " ".join(str(error).split(" [tensorstore")[0].split()) or type(error).__name__
    text = text.replace(f"{place.absolute()}/", "")
    array = re.search(r'"([^"]+)/[^"/]+" in OCDBT', text)
    reason = text[-160:].split(": ", 1)[-1] if len(text) > 160 else text
    return f"{array[1]} cannot be read ({reason})" if array else f"cannot be read ({reason})"


def _place(run: RunFolder, step: int) -> Path:
    return run.checkpoints / str(step)


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps))
