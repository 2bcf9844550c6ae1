"""A LoRA with which the miniature samples in four steps without guidance.

    python -m train.distill configs/miniature_fast.py --workdir runs/miniature/fast

Distills the embedded model, on the data of configs/miniature.py.
"""

import dataclasses

from configs import miniature
from instantid_jax import embedded
from train.config import ModelConfig, TrainConfig
from train.distillation.config import DistillationConfig
from train.objective import ObjectiveConfig
from train.optimizer import OptimizerConfig

STEPS = 1500


def get_config() -> TrainConfig:
    return dataclasses.replace(
        miniature.get_config(),
        model=ModelConfig(sdxl=str(embedded.SDXL), instantid=str(embedded.INSTANTID)),
        # Two steps each are eight of the teacher's.
        distillation=DistillationConfig(teacher_steps=2, rank=16),
        global_batch_size=8,
        steps=STEPS,
        objective=ObjectiveConfig(prediction_type="v_prediction", face_weight=2.0),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=50,
            decay_steps=STEPS,
            ema_decay=0.99,
        ),
    )
