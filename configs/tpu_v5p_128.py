"""InstantID for SDXL at one megapixel on TPU v5p-128: 4 x 4 x 4 chips of 95 GB.

    python -m train configs/tpu_v5p_128.py --workdir runs/1024 --data.datasets.0.folder DIR

Mesh 4 (data) x 16 (fsdp), four images per chip. The compiled program reports 18.2 of a chip's 95 GB
(benchmarks/README.md), and 120 without rematerialization. The name v5p-128 counts TensorCores, two
per chip.
"""

import dataclasses

from configs.tpu_v5e_256 import get_config as v5e
from train.config import MeshConfig, TrainConfig


def get_config() -> TrainConfig:
    return dataclasses.replace(
        v5e(), global_batch_size=256, mesh=MeshConfig(data=4, fsdp=16, frozen="sharded")
    )
