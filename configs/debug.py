"""A trial run of under a minute on a CPU, with a small random model and drawn faces.

    python -m train configs/debug.py --workdir runs/debug

Rerun the command to resume the run; `--steps` extends it.
"""

from instantid_jax.cache import cache_folder
from train.config import CheckpointConfig, ModelConfig, TrainConfig
from train.data.config import DataConfig, DatasetShare
from train.data.drawn import drawn_dataset
from train.optimizer import OptimizerConfig
from train.random_model import RESAMPLER, random_model
from train.step import StepConfig
from train.validation.config import ValidationConfig


def get_config() -> TrainConfig:
    faces = str(drawn_dataset(cache_folder()))
    return TrainConfig(
        model=ModelConfig(sdxl=str(random_model(cache_folder())), resampler=RESAMPLER),
        data=DataConfig(datasets=(DatasetShare(folder=faces),), buckets=((64, 64),)),
        global_batch_size=8,
        steps=12,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=3, ema_decay=0.9),
        step=StepConfig(dtype="float32", remat="none"),
        checkpoints=CheckpointConfig(every=3, wait=True),
        validation=ValidationConfig(
            dataset=faces,
            # After the run's end; `--steps 24` reaches it, at a third more time to compile.
            every=24,
            records=2,
            size=(64, 64),
            num_inference_steps=4,
            # Without guidance, the program is smaller.
            guidance_scale=1.0,
        ),
        loader_threads=2,
        log_example_ids=True,
    )
