"""InstantID for SDXL at one megapixel on one 80 GB GPU.

    python -m train configs/gpu_80gb.py --workdir runs/1024 --data.datasets.0.folder DIR

The paper's batch of 96 in micro-batches of two. To save 6.7 GB, no moving average of the weights is
kept. Estimated memory: 43 of 80 GB (benchmarks/README.md).
"""

import dataclasses

from configs.instantid_sdxl import get_config as paper
from train.config import MeshConfig, TrainConfig


def get_config() -> TrainConfig:
    config = paper()
    return dataclasses.replace(
        config,
        mesh=MeshConfig(data=1),
        optimizer=dataclasses.replace(config.optimizer, ema_decay=None),
        step=dataclasses.replace(config.step, micro_batches=48),
    )
