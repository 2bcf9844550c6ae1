"""InstantID for SDXL, second stage: pictures of a megapixel in five aspect ratios.

    python -m train configs/instantid_sdxl.py --workdir runs/1024 --model.instantid runs/512 \
        --data.datasets.0.folder DIR

The paper's hardware: 48 GPUs of 80 GB, two pictures each. The mesh is 6 (data) x 8 (fsdp), so that
state is split among the eight GPUs of a machine. configs/instantid_sdxl_512.py is the stage before.
The paper (Wang et al. 2024, sections 3.3 and 4) gives the batch of 96, trainables, objective and
data; it does not state the optimiser, whose settings are those of the trainers that reproduced it.
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
        # Nothing is dropped. CFG in place of PAPER drops the person, the text and both, 0.05 each,
        # which helps guidance; so does --objective.drop-id 0.05 and so on.
        objective=PAPER,
        optimizer=OptimizerConfig(
            learning_rate=1e-5,
            schedule="constant",
            warmup_steps=500,
            weight_decay=0.01,
            clip_norm=1.0,
            # The learning rate never falls, so the last weights carry its noise; an average over
            # some 10,000 steps does not, and split among devices it costs each 6.7 GB / fsdp.
            ema_decay=0.9999,
        ),
        step=StepConfig(dtype="bfloat16", remat="full"),
    )
