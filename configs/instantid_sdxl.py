"""InstantID for SDXL, second stage: one-megapixel images in five aspect ratios.

    python -m train configs/instantid_sdxl.py --workdir runs/1024 --model.instantid runs/512 \
        --data.datasets.0.folder DIR

For the paper's hardware: 48 GPUs of 80 GB, two images each. The mesh is 6 (data) x 8 (fsdp), which
shards the state over the eight GPUs of a machine. The first stage is configs/instantid_sdxl_512.py.
Batch size, trainables, objective and data are those of the paper (Wang et al. 2024, sections 3.3
and 4). It does not specify the optimizer; its settings are those of trainers that reproduced it.
"""

from train.config import MeshConfig, ModelConfig, TrainConfig
from train.data.buckets import aspect_buckets
from train.data.config import DataConfig, DatasetShare
from train.objective import PAPER
from train.optimizer import OptimizerConfig
from train.step import StepConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(sdxl="stabilityai/stable-diffusion-xl-base-1.0"),
        data=DataConfig(
            datasets=(DatasetShare(folder="data/faces"),), buckets=aspect_buckets(1024)
        ),
        global_batch_size=96,
        steps=100_000,
        mesh=MeshConfig(fsdp=8),
        # No conditioning dropout. CFG instead of PAPER drops ID, text or both, 0.05 each, which
        # helps guidance; --objective.drop-id 0.05 and similar options do the same.
        objective=PAPER,
        optimizer=OptimizerConfig(
            learning_rate=1e-5,
            schedule="constant",
            warmup_steps=500,
            weight_decay=0.01,
            clip_norm=1.0,
            # The constant learning rate leaves noise in the weights, which an average over about
            # 10,000 steps removes. It takes 6.7 GB / fsdp per device.
            ema_decay=0.9999,
        ),
        step=StepConfig(dtype="bfloat16", remat="full"),
    )
