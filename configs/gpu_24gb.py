"""The Image Adapter for SDXL at one megapixel on one 24 GB GPU; IdentityNet stays as published.

    python -m train configs/gpu_24gb.py --workdir runs/adapter --data.datasets.0.folder DIR

Trains the Resampler and the ID keys and values, from the published weights, with a batch of 32 in
micro-batches of one. IdentityNet is frozen in bfloat16. The optimizer keeps factored second
moments, and first moments in bfloat16. Memory: 17.5 of 24 GB by the compiler's count
(benchmarks/README.md). JAX takes three quarters of a GPU's, 18 GB, unless
XLA_PYTHON_CLIENT_MEM_FRACTION is larger: set it to 0.95. The result is complete: `instantid
generate --instantid runs/adapter` takes IdentityNet from its source.
"""

import dataclasses

from configs.instantid_sdxl import get_config as paper
from train.config import MeshConfig, TrainConfig


def get_config() -> TrainConfig:
    config = paper()
    return dataclasses.replace(
        config,
        model=dataclasses.replace(
            config.model, instantid="InstantX/InstantID", trainable="adapter"
        ),
        global_batch_size=32,
        steps=20_000,
        mesh=MeshConfig(data=1),
        optimizer=dataclasses.replace(
            config.optimizer, algorithm="adafactor", moment_dtype="bfloat16", ema_decay=None
        ),
        step=dataclasses.replace(config.step, micro_batches=32),
    )
