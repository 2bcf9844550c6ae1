"""InstantID for SDXL at one megapixel on one machine with eight 141 GB H200 GPUs.

    python -m train configs/gpu_h200_8.py --workdir runs/1024 --data.datasets.0.folder DIR

Mesh 1 (data) x 8 (fsdp), twelve images per GPU: the paper's batch of 96. Estimated memory: 40 of
141 GB per GPU (benchmarks/README.md).
"""

import dataclasses

from configs.instantid_sdxl import get_config as paper
from train.config import MeshConfig, TrainConfig


def get_config() -> TrainConfig:
    return dataclasses.replace(paper(), mesh=MeshConfig(data=1, fsdp=8))
