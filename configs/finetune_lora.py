"""A LoRA of the published Image Adapter on ten or more pictures of a person, or in a style.

    python -m train configs/finetune_lora.py --workdir runs/me --data.datasets.0.folder DIR

Changes how a face is seen (Resampler) and shown (ID keys and values). SDXL and IdentityNet stay as
they are, so that other LoRAs and prompts work as before. The result is InstantID weights, for
`instantid generate --instantid runs/me` and, by `python -m convert to-torch`, for diffusers.

Build the dataset of a person with `--people`: half of the examples then take the embedding of
another picture, so that the LoRA learns the person and not each photo. A style that also shows
without a face is better learned by a LoRA of the UNet, which other trainers make.

Forty epochs of 20 pictures are 400 steps of two images. On one 24 GB GPU: estimated memory 13.6 GB
(benchmarks/README.md), and 26 PFLOP, which take 7 minutes at 60 TFLOP/s (reckoned).
"""

import dataclasses

from configs.gpu_24gb import get_config as adapter
from train.config import CheckpointConfig, TrainConfig


def get_config() -> TrainConfig:
    config = adapter()
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, lora_rank=16),
        data=dataclasses.replace(config.data, reference_probability=0.5),
        global_batch_size=2,
        steps=None,
        epochs=40,
        optimizer=dataclasses.replace(
            config.optimizer,
            # The factors' own moments are small.
            algorithm="adamw",
            moment_dtype="float32",
            learning_rate=1e-4,
            warmup_steps=20,
        ),
        # Compiling takes as long as many of the few steps.
        step=dataclasses.replace(config.step, micro_batches=2, scan=True),
        checkpoints=CheckpointConfig(every=100),
    )
