"""A configuration for tests of the whole program: two-level networks and drawn faces."""

from unittest import mock

from instantid_jax.cache import cache_folder
from tests.train import small
from train import random_model
from train.config import CheckpointConfig, ModelConfig, TrainConfig
from train.data.config import DataConfig, DatasetShare
from train.data.drawn import drawn_dataset
from train.optimizer import OptimizerConfig
from train.step import StepConfig

SETTINGS = random_model.SETTINGS | {
    "unet": small.UNET,
    "vae": small.VAE,
    "text_encoder": random_model.SETTINGS["text_encoder"] | small.ONE_LAYER,
    "text_encoder_2": random_model.SETTINGS["text_encoder_2"] | small.ONE_LAYER,
}


def tiny_model() -> str:
    """The folder of the model, which serves as both `sdxl` and `instantid`."""
    with mock.patch.object(random_model, "SETTINGS", SETTINGS):
        return str(random_model.random_model(cache_folder() / "tiny"))


def get_config() -> TrainConfig:
    faces = str(drawn_dataset(cache_folder()))
    return TrainConfig(
        model=ModelConfig(sdxl=tiny_model(), resampler=random_model.RESAMPLER),
        data=DataConfig(datasets=(DatasetShare(folder=faces),), buckets=((64, 64),)),
        global_batch_size=4,
        steps=10,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0, ema_decay=0.9),
        step=StepConfig(dtype="float32", remat="none"),
        checkpoints=CheckpointConfig(every=3, keep=20, wait=True),
        loader_threads=2,
        log_example_ids=True,
    )
