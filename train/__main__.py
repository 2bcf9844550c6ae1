"""`python -m train configs/x.py --workdir DIR`: starts or resumes a training run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from instantid_jax.errors import InputError
from train.command import run_program

if TYPE_CHECKING:
    from train.config import TrainConfig

USAGE = """usage: python -m train CONFIG --workdir DIR [--steps N | --epochs N] [options]

Trains IdentityNet and the Image Adapter with the configuration in a Python file, or resumes the
run in DIR. `python -m train CONFIG --help` lists the options: one for each setting of CONFIG."""


def main(args: Sequence[str] | None = None) -> None:
    run_program("train", USAGE, _without_distillation, args)


def _without_distillation(config: "TrainConfig", options: Sequence[str]) -> "TrainConfig":
    """The configuration itself.

    Raises:
      InputError: if it or an option asks for a distillation.
    """
    if config.distillation is not None or any(o.startswith("--distillation.") for o in options):
        raise InputError(
            "python -m train trains InstantID's parts; a distillation is run with the same "
            "arguments by python -m train.distill"
        )
    return config


if __name__ == "__main__":
    main()
