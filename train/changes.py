"""Settings that a run may change when it resumes."""

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from instantid_jax.errors import InputError
from instantid_jax.runs.folder import RunFolder
from train.config import TrainConfig
from train.objective import ObjectiveConfig
from train.optimizer import OptimizerConfig
from train.runs.json_lines import read_events

EVENT = "changed"

# Settings of each step alone: a step takes them, the state does not depend on them. A checkpoint
# records all batch sizes, which decide the position in the data.
CHANGEABLE = frozenset(
    [
        "global_batch_size",
        *(
            f"{section}.{field.name}"
            for section, config in (("optimizer", OptimizerConfig), ("objective", ObjectiveConfig))
            for field in dataclasses.fields(config)
        ),
    ]
) - {
    "optimizer.algorithm",
    "optimizer.moment_dtype",
    "optimizer.skip_nonfinite",
    "objective.prediction_type",
}

# Why a setting, or all settings of a section, cannot change.
REASONS = {
    "optimizer.algorithm": "the state of the other algorithm differs",
    "optimizer.moment_dtype": "the state has it",
    "objective.prediction_type": "the base model has it",
    "seed": "it orders the data",
    "step.dtype": "the base model is loaded in it",
    "data": "it orders the data",
    "distillation": "it decides what is trained",
    "model": "it decides what is trained, and from where",
}

# Values of settings that `TrainConfig.identity` leaves out while they are off.
OFF = {"optimizer.restarts": "[]"}


class Change(NamedTuple):
    """A setting that differs from the run's so far; values are JSON's."""

    setting: str
    was: Any
    now: Any


def changes_named(config: TrainConfig, names: Sequence[str]) -> list[str]:
    """The settings that `--change` names, in the spelling of `TrainConfig.identity`.

    Raises:
      InputError: for a name that is not a setting, or one that cannot change.
    """
    found = [name.replace("-", "_") for name in names]
    known = {*_dotted(config.to_dict()), *REASONS, *CHANGEABLE}
    for name in found:
        if name in CHANGEABLE:
            continue
        reason = REASONS.get(name, REASONS.get(name.partition(".")[0]))
        if reason is not None:
            raise InputError(
                f"--change {name}: it cannot change on resume, because {reason}; start a "
                "new run, or one from this run's weights (--model.instantid)"
            )
        if name in known:
            raise InputError(
                f"--change {name}: it may differ on resume in any case: leave it out of --change"
            )
        near = difflib.get_close_matches(name, sorted(CHANGEABLE), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "expected a name such as " + min(CHANGEABLE)
        raise InputError(f"--change {name}: no such setting; {hint}")
    return found


def changes_made(
    names: Sequence[str], saved: Mapping[str, str], now: Mapping[str, str], run: RunFolder
) -> list[Change]:
    """The named settings whose values differ from those of a checkpoint.

    Args:
      names: those of `changes_named`.
      saved, now: fingerprints of the checkpoint and of this process.
      run: the run that resumes. A change that it recorded earlier may be named again, because the
        same command resumes a run that was stopped after it.
    Raises:
      InputError: if a named setting does not differ and did not change earlier.
    """
    changes = []
    for name in names:
        was, value = (each.get(name, OFF.get(name, "null")) for each in (saved, now))
        change = Change(name, json.loads(was), json.loads(value))
        if was != value:
            changes.append(change)
        elif not any(
            event.get("setting") == name and event.get("now") == change.now
            for event in read_events(run, EVENT)
        ):
            raise InputError(
                f"--change {name}: it is {value} already: give its new value, or leave it out of "
                "--change"
            )
    return changes


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The names of all settings and sections."""
    for name, value in settings.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")
