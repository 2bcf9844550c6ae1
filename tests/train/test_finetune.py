"""configs/finetune_lora.py at small size: from pictures to InstantID weights that differ in use."""

import dataclasses

import numpy as np
import pytest

from configs import finetune_lora
from instantid_jax.face.face import Face
from instantid_jax.pipeline import InstantIDPipeline
from tests.train import tiny_config, training_process
from train.config import TrainConfig
from train.loop import train
from train.start import StartConfig
from train.validation.config import ValidationConfig


def config() -> TrainConfig:
    made, tiny = finetune_lora.get_config(), tiny_config.get_config()
    faces = tiny.data.datasets[0].folder
    return dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, sdxl=tiny.model.sdxl, instantid=tiny.model.sdxl),
        data=dataclasses.replace(made.data, datasets=tiny.data.datasets, buckets=tiny.data.buckets),
        global_batch_size=8,
        epochs=4,
        optimizer=dataclasses.replace(made.optimizer, learning_rate=1e-2, warmup_steps=2),
        mesh=tiny.mesh,
        step=tiny.step,
        validation=ValidationConfig(dataset=faces, every=8, records=1, size=(64, 64)),
    )


@pytest.mark.slow
def test_a_finetune_learns_and_changes_the_image(tmp_path):
    made, workdir = config(), tmp_path / "run"
    assert train(made, workdir, StartConfig()) == 0
    losses = [
        line["validation/loss"]
        for line in training_process.metrics(workdir)
        if "validation/loss" in line
    ]
    # 64 records, in batches of eight.
    assert len(losses) == 4 and losses[-1] < losses[0]

    random = np.random.default_rng(0)
    face = Face(
        embedding=random.standard_normal(512).astype(np.float32),
        kps=np.array([[26, 28], [38, 28], [32, 33], [28, 38], [36, 38]], np.float32),
        image_size=(64, 64),
    )

    def image(instantid: str) -> np.ndarray:
        pipe = InstantIDPipeline.load(sdxl=made.model.sdxl, instantid=instantid, dtype="float32")
        made_of = pipe(
            "a face", face=face, height=64, width=64, num_inference_steps=2, guidance_scale=1.0
        )
        return np.asarray(made_of.images[0], np.int32)

    before, after = image(made.model.sdxl), image(str(workdir))
    assert np.abs(after - before).max() > 2
