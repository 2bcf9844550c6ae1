"""The configuration of a training run; `configs/` has instances."""

import dataclasses
import json
from typing import Any, Literal

from instantid_jax.errors import InputError
from instantid_jax.models.controlnet import ControlNetConfig
from instantid_jax.models.resampler import ResamplerConfig
from train.data.buckets import Size
from train.data.config import DataConfig
from train.objective import ObjectiveConfig
from train.optimizer import OptimizerConfig
from train.step import StepConfig

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
    """The frozen base, and what the trainables start from.

    Attributes:
      sdxl: a diffusers folder, a single file in the original layout, or a hub id.
      vae: another VAE in place of SDXL's own; None takes that.
      tokenizers: for a single file, a folder or hub id of tokenizers; None takes SDXL base's.
      variant: "fp16" takes the files so named.
      instantid: InstantID's weights to start from: a folder in the published layout, a hub id, or
        the folder of another run. None starts from fresh ones, for which the three settings below
        are.
      resampler: sizes of a fresh Resampler.
      conditioning_channels: a fresh IdentityNet's, from the keypoint picture's pixels to an eighth
        of its sides; diffusers' `conditioning_embedding_out_channels`.
      recognizer: the `.onnx` file of the face pack that measured the data, for the identity loss.
      zero_id_values: fresh ID values are zero in place of copies of the text's, so that step 0 is
        the base model exactly.
    """

    sdxl: str
    vae: str | None = None
    tokenizers: str | None = None
    variant: str | None = None
    instantid: str | None = None
    resampler: ResamplerConfig = ResamplerConfig()
    conditioning_channels: tuple[int, ...] = ControlNetConfig.conditioning_embedding_out_channels
    recognizer: str | None = None
    zero_id_values: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How devices share the work.

    Attributes:
      data: groups of devices that each take a share of the batch; -1 takes all devices left over.
      fsdp: devices of a group that each hold a part of every parameter, and their share of the
        batch.
      tensor: devices that split the layers of the transformers among them.
      frozen: "replicated" keeps the base model whole on each device; "sharded" splits it as the
        trainables are, which takes less memory and more communication.
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
    """When the state is saved.

    Attributes:
      every: steps between saves.
      keep: so many of the newest are kept.
      keep_every: beside these, those of steps that this divides; None keeps none.
      wait: train on only when a save is whole, in place of writing it meanwhile. Where steps are
        much faster than saves, a killed run would lose more than `every` otherwise.
    """

    every: int = 1000
    keep: int = 3
    keep_every: int | None = None
    wait: bool = False

    def __post_init__(self):
        for name in ("every", "keep", "keep_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"checkpoints {name}={value}: expected 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Pictures made on the way, of the first records of a dataset, with fixed seeds.

    Attributes:
      dataset: a folder as those of the training data; better not one of them.
      every: steps between pictures.
      records: rows of the picture: photo, keypoints, and what is generated from the record's own
        keypoints, embedding and caption.
      size: (height, width) of each.
      num_inference_steps, guidance_scale, seed: of sampling.
    """

    dataset: str
    every: int = 1000
    records: int = 4
    size: Size = (1024, 1024)
    num_inference_steps: int = 30
    guidance_scale: float = 5.0
    seed: int = 0

    def __post_init__(self):
        for name in ("every", "records", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"validation {name}={getattr(self, name)}: expected 1 or more")
        if not 0 <= self.seed < 2**32 or not 0 <= self.guidance_scale < float("inf"):
            raise InputError(
                f"validation seed={self.seed}, guidance_scale={self.guidance_scale}: expected a "
                "seed of 0 to 2**32 - 1 and a scale of 0 or more"
            )
        if min(self.size) < 64 or any(side % 32 for side in self.size):
            raise InputError(f"validation size={self.size}: expected multiples of 32, 64 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that a run is.

    Attributes:
      steps: where to stop; no part of the learning rate's schedule.
      global_batch_size: examples a step, over all devices and micro-batches.
      seed: of the data's order, the noise and the fresh trainables.
      loader_threads: examples made at a time by each process.
      log_example_ids: whether the metrics name each step's records.
    """

    model: ModelConfig
    data: DataConfig
    global_batch_size: int
    steps: int
    seed: int = 0
    mesh: MeshConfig = MeshConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    step: StepConfig = StepConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig | None = None
    loader_threads: int = 8
    log_example_ids: bool = False

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed}: expected 0 to 2**32 - 1")
        for name in ("global_batch_size", "steps", "loader_threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected 1 or more")
        if (self.objective.identity_weight > 0) != (self.model.recognizer is not None):
            raise InputError(
                f"objective.identity_weight={self.objective.identity_weight} with model.recognizer="
                f"{self.model.recognizer}: the identity loss needs both; without it, set neither"
            )

    def check_devices(self, data: int, fsdp: int) -> None:
        """Refuses a batch that a mesh cannot share out evenly.

        Args:
          data, fsdp: sizes of the mesh's axes.
        """
        share = data * fsdp * self.step.micro_batches
        if self.global_batch_size % share:
            below = self.global_batch_size // share * share
            raise InputError(
                f"global_batch_size={self.global_batch_size} does not divide evenly among "
                f"data {data} x fsdp {fsdp} devices in {self.step.micro_batches} micro-batch(es): "
                f"use a multiple of {share}, such as {below or share}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The resolved configuration, as `config.json` holds it."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, str]:
        """What decides a run's numbers, one short text a setting, by dotted name.

        Paths are not in it: what is read from them is recognized by its contents. How the work is
        shared out, reported and saved does not change the numbers beyond rounding.
        """
        settings = self.to_dict()
        identity = {
            f"{section}.{name}": value
            for section in ("objective", "optimizer")
            for name, value in settings[section].items()
        }
        # It changes the numbers of no run that it does not end.
        del identity["optimizer.skip_nonfinite"]
        # Options that are off were none when older runs began.
        if self.optimizer.algorithm == "adamw":
            del identity["optimizer.algorithm"]
        if not self.objective.identity_weight:
            del identity["objective.identity_weight"], identity["objective.identity_window"]
        for name in IDENTIFYING_DATA:
            identity[f"data.{name}"] = settings["data"][name]
        identity["data.weights"] = [share["weight"] for share in settings["data"]["datasets"]]
        identity["global_batch_size"] = self.global_batch_size
        identity["seed"] = self.seed
        identity["step.dtype"] = self.step.dtype
        return {name: json.dumps(value) for name, value in identity.items()}
