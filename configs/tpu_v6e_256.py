"""InstantID for SDXL at one megapixel on TPU v6e-256: 16 x 16 chips of 32 GB.

    python -m train configs/tpu_v6e_256.py --workdir runs/1024 --data.datasets.0.folder DIR

Mesh 16 (data) x 16 (fsdp), two images per chip. Memory: at most 14.6 of a chip's 32 GB
(benchmarks/README.md).
"""

import dataclasses

from configs.tpu_v5e_256 import get_config as v5e
from train.config import TrainConfig


def get_config() -> TrainConfig:
    return dataclasses.replace(v5e(), global_batch_size=512)
