"""InstantID in miniature, on the base model and the drawn people of `miniature/`.

    python -m train configs/miniature.py --workdir runs/miniature/instantid

The commands that create the folders below are in miniature/README.md. The ID embedding always
comes from another picture of the person than the target, so that traces of style and light in the
embedding are of no use.
"""

from instantid_jax import embedded
from instantid_jax.models.resampler import ResamplerConfig
from train.config import CheckpointConfig, ModelConfig, TrainConfig
from train.data.config import DataConfig, DatasetShare
from train.objective import ObjectiveConfig
from train.optimizer import OptimizerConfig
from train.step import StepConfig
from train.validation.config import ValidationConfig

STEPS = 3000
# Heights and widths of the pictures that `miniature.people` draws.
BUCKETS = ((128, 128), (128, 192), (192, 128))


def get_config() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(
            sdxl="runs/miniature/text_to_image/sdxl",
            resampler=ResamplerConfig(
                dim=128,
                depth=2,
                inner_dim=128,
                num_queries=16,
                embedding_dim=512,
                output_dim=192,
                ff_inner_dim=512,
            ),
            # diffusers' (16, 32, 96, 256) would take two fifths of a step's time.
            conditioning_channels=(8, 16, 32, 64),
        ),
        data=DataConfig(
            datasets=(DatasetShare(folder="runs/miniature/faces"),),
            buckets=BUCKETS,
            crop="center",
            cached_latents=True,
            reference_probability=1.0,
        ),
        global_batch_size=32,
        steps=STEPS,
        objective=ObjectiveConfig(
            prediction_type="v_prediction",
            drop_id=0.05,
            drop_text=0.05,
            drop_both=0.05,
            # As in the shipped base model's training, with a wider spread instead of its uniform
            # eighth.
            log_noise=(0.0, 1.4),
            face_weight=2.0,
        ),
        optimizer=OptimizerConfig(
            # A hundred times SDXL's, for small networks that start from random weights.
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=100,
            decay_steps=STEPS,
            ema_decay=0.998,
        ),
        step=StepConfig(dtype="float32", remat="none"),
        checkpoints=CheckpointConfig(every=250, keep=1, best="face_cosine"),
        validation=ValidationConfig(
            dataset="runs/miniature/held_out",
            every=250,
            records=32,
            loss_records=64,
            size=(128, 128),
            num_inference_steps=16,
            guidance_scale=2.0,
            face_pack=str(embedded.FACE_PACK),
            recognizer="miniature/evaluation/judge.onnx",
        ),
        loader_threads=2,
    )
