"""InstantID for SDXL at one megapixel on TPU v5e-256: 16 x 16 chips of 16 GB.

    python -m train configs/tpu_v5e_256.py --workdir runs/1024 --data.datasets.0.folder DIR

Mesh 16 (data) x 16 (fsdp), one image per chip. The compiled step needs 8.3 of a chip's 16 GB
(benchmarks/README.md). The base model is sharded as well; with it replicated, the compiler counted
17.0 before transformer blocks were gathered one by one.
"""

import dataclasses

from configs.instantid_sdxl import get_config as paper
from train.config import MeshConfig, TrainConfig


def get_config() -> TrainConfig:
    config = paper()
    return dataclasses.replace(
        config,
        global_batch_size=256,
        mesh=MeshConfig(data=16, fsdp=16, frozen="sharded"),
        step=dataclasses.replace(config.step, scan=True),
    )
