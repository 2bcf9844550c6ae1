"""The loggers by name."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from instantid_jax.errors import InputError
from train.loggers.logger import Logged, Logger

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
DEFAULT: tuple[LoggerName, ...] = ("tensorboard",)


def check_loggers(names: Sequence[str]) -> None:
    """Raises InputError for an unknown name, a repeated one, or one without its package."""
    for name in names:
        if name not in get_args(LoggerName):
            raise InputError(
                f"loggers={name!r}: expected {', '.join(get_args(LoggerName))}; metrics.jsonl is "
                "always written"
            )
    if len(set(names)) < len(names):
        raise InputError(f"loggers={', '.join(names)}: expected each name once")
    # A folder of that name, such as the one W&B makes, is a package without a file.
    missing = [
        name
        for name in names
        if (spec := importlib.util.find_spec(name)) is None or spec.origin is None
    ]
    if missing:
        extras = ",".join(name for name in missing if name != "tensorboard") or "train"
        raise InputError(
            f"loggers={', '.join(missing)}: the package is missing: pip install -e '.[{extras}]'"
        )


def logger_of(name: LoggerName) -> Callable[[Logged], Logger]:
    """The class of a logger. Importing one takes seconds."""
    if name == "tensorboard":
        from train.loggers.tensorboard import TensorBoard

        return TensorBoard
    if name == "wandb":
        from train.loggers.wandb import WeightsAndBiases

        return WeightsAndBiases
    from train.loggers.mlflow import MLflow

    return MLflow
