"""configs/finetune_lora.py in miniature: the embedded model and drawn portraits, on a CPU.

python -m train configs/finetune_miniature.py --workdir runs/me --data.datasets.0.folder DIR
"""

import dataclasses

from configs import miniature
from configs.finetune_lora import get_config as full_size
from instantid_jax import embedded
from train.config import TrainConfig
from train.data.buckets import aspect_buckets


def get_config() -> TrainConfig:
    config, small = full_size(), miniature.get_config()
    return dataclasses.replace(
        config,
        model=dataclasses.replace(
            config.model, sdxl=str(embedded.SDXL), instantid=str(embedded.INSTANTID)
        ),
        data=dataclasses.replace(config.data, buckets=aspect_buckets(128)),
        global_batch_size=4,
        objective=small.objective,
        # Ten times SDXL's, for small networks.
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-3),
        step=small.step,
        loader_threads=small.loader_threads,
    )
