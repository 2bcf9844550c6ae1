"""Options for settings that a configuration may lack, such as further datasets and validation."""

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from instantid_jax.errors import InputError
from train.config import TrainConfig
from train.data.config import CaptionShare, DatasetShare
from train.validation.config import ValidationConfig

Share = TypeVar("Share")

HELP = (
    "Beyond the options below: --data.datasets.1.folder DIR adds a dataset, "
    "--data.captions.0.source NAME chooses captions, --validation.dataset DIR validates, and "
    "--epochs N sets the length instead of --steps."
)


def with_named_settings(config: TrainConfig, args: Sequence[str]) -> TrainConfig:
    """A configuration that has all settings that options name, to be filled in by these.

    tyro makes options only for what the default has.

    Raises:
      InputError: for a length in steps and in epochs.
    """
    datasets = _extended(config.data.datasets, DatasetShare(folder=tyro.MISSING), "datasets", args)
    captions = _extended(config.data.captions, CaptionShare(source=tyro.MISSING), "captions", args)
    data = dataclasses.replace(config.data, datasets=datasets, captions=captions)
    validation = config.validation
    if validation is None and any(arg.startswith("--validation.") for arg in args):
        validation = ValidationConfig(dataset=tyro.MISSING)
    config = _with_length(config, args)
    return dataclasses.replace(config, data=data, validation=validation)


def _with_length(config: TrainConfig, args: Sequence[str]) -> TrainConfig:
    """A configuration whose length is in the unit that options name."""
    steps, epochs = (
        any(arg.partition("=")[0] == option for arg in args) for option in ("--steps", "--epochs")
    )
    if steps and epochs:
        raise InputError("--steps and --epochs: give one of them")
    if epochs:
        return dataclasses.replace(config, steps=None, epochs=1)
    return dataclasses.replace(config, steps=1, epochs=None) if steps else config


def _extended(
    shares: Sequence[Share], empty: Share, name: str, args: Sequence[str]
) -> tuple[Share, ...]:
    """The shares, and empty ones up to the highest number in `--data.{name}.{number}.*`."""
    found = (re.match(rf"--data\.{name}\.(\d{{1,3}})\.", arg) for arg in args)
    count = max((int(match[1]) + 1 for match in found if match), default=0)
    return (*shares, *[empty] * (count - len(shares)))
