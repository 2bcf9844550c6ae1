"""`python -m train.distill CONFIG --workdir DIR`: distills a few-step LoRA, or resumes the run."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from train.command import run_program

if TYPE_CHECKING:
    from train.config import TrainConfig

USAGE = """usage: python -m train.distill CONFIG --model.instantid RUN_OR_WEIGHTS --workdir DIR

Trains a LoRA of the UNet with which InstantID samples in few steps without guidance, or resumes the
run in DIR. CONFIG is the Python file of a training. Its model, data, mesh, batch, validation and
checkpoints are used; the objective, optimizer and number of steps are a distillation's own, unless
CONFIG has a distillation. `python -m train.distill CONFIG --help` lists the options."""

# As in diffusers' recipe of an LCM-LoRA (examples/consistency_distillation).
LEARNING_RATE = 1e-4
EMA_DECAY = 0.99
STEPS = 4000


def main(args: Sequence[str] | None = None) -> None:
    run_program("train.distill", USAGE, lambda config, _: distilling(config), args)


def distilling(config: "TrainConfig") -> "TrainConfig":
    """The distillation of a training's configuration; one that has a distillation is unchanged."""
    from train.distillation.config import DistillationConfig
    from train.objective import ObjectiveConfig
    from train.optimizer import OptimizerConfig

    if config.distillation is not None:
        return config
    return dataclasses.replace(
        config,
        distillation=DistillationConfig(),
        # The identity loss is of the training alone, as are the objective's other settings.
        model=dataclasses.replace(config.model, recognizer=None),
        objective=ObjectiveConfig(
            prediction_type=config.objective.prediction_type,
            face_weight=config.objective.face_weight,
        ),
        optimizer=OptimizerConfig(learning_rate=LEARNING_RATE, ema_decay=EMA_DECAY),
        steps=STEPS,
    )


if __name__ == "__main__":
    main()
