"""InstantID for SDXL, first stage: images of 512 x 512 pixels in area, in five aspect ratios.

    python -m train configs/instantid_sdxl_512.py --workdir runs/512 --data.datasets.0.folder DIR

An image takes a quarter of the second stage's compute, so each of 48 GPUs of 80 GB has eight. Batch
size and learning rate are larger than in the second stage, as in IP-Adapter's training, where they
were 1e-4 at 512 and 1e-5 at 1024 pixels (IP-Adapter's issue 255). For other devices, copy the mesh
from their configuration: `--mesh.data 16 --mesh.fsdp 16 --global-batch-size 1024`.
"""

import dataclasses

from configs.instantid_sdxl import get_config as second_stage
from train.config import TrainConfig
from train.data.buckets import aspect_buckets


def get_config() -> TrainConfig:
    config = second_stage()
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, buckets=aspect_buckets(512)),
        global_batch_size=384,
        steps=300_000,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-4),
    )
