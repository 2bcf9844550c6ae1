"""Configuration of a training run; `configs/` has instances."""

import dataclasses
import json
from typing import Any, Literal

from instantid_jax.errors import InputError
from instantid_jax.models.controlnet import ControlNetConfig
from instantid_jax.models.resampler import ResamplerConfig
from instantid_jax.paths import is_address
from train.data.batch_sizes import BatchSizes
from train.data.config import DataConfig
from train.distillation.config import DistillationConfig
from train.loggers.names import DEFAULT as DEFAULT_LOGGERS
from train.loggers.names import LoggerName
from train.networks import TRAINABLE, Trainable, frozen_parts
from train.objective import ObjectiveConfig
from train.optimizer import OptimizerConfig
from train.step import StepConfig
from train.validation.config import ValidationConfig

# Validation numbers that can choose the best checkpoint, and whether the highest is best.
HIGHEST_IS_BEST = {
    "loss": False,
    "face_cosine": True,
    "detection_rate": True,
    "keypoint_error": False,
    "clip_t": True,
}

IDENTIFYING_DATA = (
    "buckets",
    "cached_latents",
    "captions",
    "crop",
    "min_side",
    "reference_probability",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The frozen base model, and the initial weights of the trainables.

    Attributes:
      sdxl: diffusers folder, single file in the original layout, or hub id.
      vae: VAE to use instead of SDXL's own: a file, a folder in diffusers' layout, or a hub id.
      tokenizers: folder or hub id of the tokenizers; by default those of the folder, or SDXL base's
        for a single file.
      variant: suffix of the weight files to load, such as "fp16".
      instantid: InstantID weights to start from: a folder in the published layout, a hub id, or
        the folder of another run. None initializes new weights from `resampler`,
        `conditioning_channels` and `zero_id_values`.
      trainable: what is trained: "all" of InstantID, the "adapter" (Resampler, ID keys and values)
        alone, or "identitynet" alone. What is not keeps the weights of `instantid`.
      lora_rank: train a LoRA of this rank of the trainables instead of their weights.
      resampler: sizes of a new Resampler.
      conditioning_channels: channels of a new IdentityNet's encoder of the keypoint image;
        diffusers' `conditioning_embedding_out_channels`.
      recognizer: for the identity loss, the `.onnx` recognizer of the face pack that prepared the
        data.
      zero_id_values: initialize ID values to zero instead of copying the text's, so that step 0
        reproduces the base model exactly.
    """

    sdxl: str
    vae: str | None = None
    tokenizers: str | None = None
    variant: str | None = None
    instantid: str | None = None
    trainable: Trainable = "all"
    lora_rank: int | None = None
    resampler: ResamplerConfig = ResamplerConfig()
    conditioning_channels: tuple[int, ...] = ControlNetConfig.conditioning_embedding_out_channels
    recognizer: str | None = None
    zero_id_values: bool = False

    def __post_init__(self):
        if self.trainable not in TRAINABLE:
            raise InputError(
                f"trainable={self.trainable!r}: expected one of {', '.join(TRAINABLE)}"
            )
        if self.lora_rank is not None and self.lora_rank < 1:
            raise InputError(f"lora_rank={self.lora_rank}: expected 1 or more, or None")

    def check_frozen(self) -> None:
        """Raises InputError if something of InstantID is frozen, but its weights are not named.

        Not while the configuration is made: options may still change it.
        """
        if self.instantid is None and frozen_parts(TRAINABLE[self.trainable], self.lora_rank):
            which = (
                f"lora_rank={self.lora_rank}"
                if self.lora_rank is not None
                else f"trainable={self.trainable}"
            )
            raise InputError(
                f"model.{which} without model.instantid: name the InstantID weights to start from"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Axis sizes of the device mesh.

    Attributes:
      data: data parallelism; -1 uses all remaining devices.
      fsdp: devices that shard parameters, optimizer state and batch.
      tensor: devices that shard the transformer layers (tensor parallelism).
      frozen: "replicated" keeps a full copy of the base model on each device; "sharded" shards it
        like the trainables, for less memory and more communication.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    frozen: Literal["replicated", "sharded"] = "replicated"

    def __post_init__(self):
        if self.data < 1 and self.data != -1:
            raise InputError(
                f"mesh data={self.data}: expected 1 or more, or -1 for all remaining devices"
            )
        if min(self.fsdp, self.tensor) < 1:
            raise InputError(f"mesh fsdp={self.fsdp}, tensor={self.tensor}: expected 1 or more")
        if self.frozen not in ("replicated", "sharded"):
            raise InputError(f"mesh frozen={self.frozen!r}: expected replicated or sharded")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.data, self.fsdp, self.tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save checkpoints, and how many to keep.

    Attributes:
      every: steps between saves.
      keep: number of newest checkpoints to keep.
      keep_every: also keep checkpoints whose step is a multiple of this.
      wait: block until each save is complete instead of writing it in the background. Without it,
        a killed run whose steps are much faster than its saves loses more than `every` steps.
      best: also keep the best checkpoint by this validation number, of those whose step was
        validated.
      folder: address in an object store, such as s3://bucket/run. Checkpoints are copied there
        after they are saved in the run's folder; a run without that folder resumes from the copy.
    """

    every: int = 1000
    keep: int = 3
    keep_every: int | None = None
    wait: bool = False
    best: Literal["loss", "face_cosine", "detection_rate", "keypoint_error", "clip_t"] | None = None
    folder: str | None = None

    def __post_init__(self):
        if self.folder is not None and not is_address(self.folder):
            raise InputError(
                f"checkpoints folder={self.folder!r}: expected an address such as s3://bucket/run; "
                "on this machine, checkpoints are in the work directory"
            )
        if self.best is not None and self.best not in HIGHEST_IS_BEST:
            raise InputError(
                f"checkpoints best={self.best!r}: expected one of {', '.join(HIGHEST_IS_BEST)}"
            )
        for name in ("every", "keep", "keep_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"checkpoints {name}={value}: expected 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The complete configuration of a run.

    Attributes:
      steps: step to stop at; does not affect the learning-rate schedule.
      epochs: how often to train on the records, instead of `steps`.
      global_batch_size: examples per step, over all devices and micro-batches.
      seed: seeds the data order, the noise and new weights.
      distillation: trains a few-step LoRA of the UNet instead of InstantID's parts.
      loader_threads: data-loading threads per process.
      log_example_ids: log the ids of each step's records in the metrics.
      loggers: where metrics and images go besides `metrics.jsonl`.
    """

    model: ModelConfig
    data: DataConfig
    global_batch_size: int
    steps: int | None = None
    epochs: int | None = None
    seed: int = 0
    mesh: MeshConfig = MeshConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    step: StepConfig = StepConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig | None = None
    distillation: DistillationConfig | None = None
    loader_threads: int = 8
    log_example_ids: bool = False
    loggers: tuple[LoggerName, ...] = DEFAULT_LOGGERS

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed}: expected 0 to 2**32 - 1")
        for name in ("global_batch_size", "steps", "epochs", "loader_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}={value}: expected 1 or more")
        if (self.steps is None) == (self.epochs is None):
            raise InputError(
                f"steps={self.steps}, epochs={self.epochs}: expected one of them, which ends the "
                "run"
            )
        if (self.objective.identity_weight > 0) != (self.model.recognizer is not None):
            raise InputError(
                f"objective.identity_weight={self.objective.identity_weight} with model.recognizer="
                f"{self.model.recognizer}: the identity loss needs both; without it, set neither"
            )

    def check_distillation(self) -> None:
        """Raises InputError for other settings that a distillation cannot go with.

        Not while the configuration is made: options may still change it.
        """
        if self.distillation is None:
            return
        if self.model.instantid is None:
            raise InputError(
                "distillation without model.instantid: name the InstantID weights to distill"
            )
        for name in ("trainable", "lora_rank"):
            value = getattr(self.model, name)
            if value != getattr(ModelConfig, name):
                raise InputError(
                    f"model.{name}={value} has no effect on a distillation: leave it out"
                )
        objective = self.objective
        for name in ("identity_weight", "noise_offset", "min_snr_gamma", "log_noise"):
            if getattr(objective, name):
                raise InputError(
                    f"objective.{name}={getattr(objective, name)} has no effect on a distillation: "
                    "leave it out"
                )

    def check_best(self) -> None:
        """Raises InputError if no checkpoint would have the number that chooses the best one.

        Not while the configuration is made: options may still change it.
        """
        best, validation = self.checkpoints.best, self.validation
        if best is None:
            return
        measured = [] if validation is None else validation.numbers
        if validation is None or best not in measured:
            raise InputError(
                f"checkpoints.best={best}, but validation measures "
                f"{', '.join(measured) or 'nothing'}: set validation.dataset, "
                "validation.face_pack and validation.recognizer for the numbers of faces, and "
                "validation.clip for clip_t"
            )
        every = self.checkpoints.every
        if max(every, validation.every) % min(every, validation.every):
            raise InputError(
                f"checkpoints.best={best} with checkpoints.every={every} and validation.every="
                f"{validation.every}: make one a multiple of the other, so that checkpoints are "
                "measured"
            )

    def in_steps(self, records: int, sizes: BatchSizes) -> "TrainConfig":
        """The configuration with its length in steps, which take each of `records` `epochs` times.

        The last batch is full, with examples of the next epoch.

        Args:
          sizes: the global batch sizes of all steps.
        """
        if self.epochs is None:
            return self
        steps = sizes.steps_with(self.epochs * records)
        return dataclasses.replace(self, steps=steps, epochs=None)

    @property
    def last_step(self) -> int:
        """`steps`, where `in_steps` has set them."""
        assert self.steps is not None, "the length is in epochs"
        return self.steps

    @property
    def dataset_folders(self) -> list[str]:
        """The folders of all datasets, of training and of validation."""
        folders = [share.folder for share in self.data.datasets]
        return folders if self.validation is None else [*folders, self.validation.dataset]

    def check_devices(self, data: int, fsdp: int) -> None:
        """Raises InputError unless the batch divides evenly among the mesh axes."""
        share = data * fsdp * self.step.micro_batches
        if self.global_batch_size % share:
            below = self.global_batch_size // share * share
            raise InputError(
                f"global_batch_size={self.global_batch_size} does not divide evenly among "
                f"data {data} x fsdp {fsdp} devices in {self.step.micro_batches} micro-batch(es): "
                f"use a multiple of {share}, such as {below or share}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The contents of the run's `config.json`."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, str]:
        """The settings that determine a run's results: JSON values by dotted name.

        Excludes paths, whose contents have fingerprints of their own, and settings of sharding,
        logging and checkpoints, which affect results only to rounding.
        """
        settings = self.to_dict()
        identity = {
            f"{section}.{name}": value
            for section in ("objective", "optimizer")
            for name, value in settings[section].items()
        }
        # Affects no run that it does not end.
        del identity["optimizer.skip_nonfinite"]
        # Older runs lack these options; leave them out while they are off.
        for name in ("trainable", "lora_rank"):
            if getattr(self.model, name) != getattr(ModelConfig, name):
                identity[f"model.{name}"] = getattr(self.model, name)
        if self.optimizer.algorithm == "adamw":
            del identity["optimizer.algorithm"]
        if self.optimizer.moment_dtype == "float32":
            del identity["optimizer.moment_dtype"]
        if not self.optimizer.restarts:
            del identity["optimizer.restarts"]
        if not self.objective.identity_weight:
            del identity["objective.identity_weight"], identity["objective.identity_window"]
        if settings["distillation"] is not None:
            distillation = settings["distillation"]
            identity |= {f"distillation.{k}": v for k, v in distillation.items() if k != "lora"}
        for name in IDENTIFYING_DATA:
            identity[f"data.{name}"] = settings["data"][name]
        identity["data.weights"] = [share["weight"] for share in settings["data"]["datasets"]]
        identity["global_batch_size"] = self.global_batch_size
        identity["seed"] = self.seed
        identity["step.dtype"] = self.step.dtype
        return {name: json.dumps(value) for name, value in identity.items()}
