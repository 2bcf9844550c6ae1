"""Configuration of a distillation."""

import dataclasses
from typing import Any

from instantid_jax.errors import InputError
from instantid_jax.request.settings import IP_ADAPTER_SCALE

# Trailing timesteps are whole numbers apart from each other only up to here.
MOST_STEPS = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Trains a LoRA of the UNet instead of InstantID's parts, which `model.instantid` names.

    The teacher is the model itself with guidance, or with the LoRA of an earlier distillation. One
    step of the student, without guidance, learns to go where `teacher_steps` of the teacher's go.

    Attributes:
      steps: sampling steps that the LoRA is made for, with trailing timesteps.
      teacher_steps: the teacher's steps in each of the student's.
      lora: folder of an earlier distillation's run, whose LoRA the teacher has and the student
        starts from, instead of new factors and guidance. It must be of this rank, and made for
        steps x teacher_steps.
      guidance_scale: the teacher's; None is the base model's own, or 1 (no guidance) with `lora`.
      ip_adapter_scale: the Image Adapter's strength, for both.
      controlnet_conditioning_scale: IdentityNet's strength, for both.
      rank: the LoRA's.
    """

    steps: int = 4
    teacher_steps: int = 4
    lora: str | None = None
    guidance_scale: float | None = None
    ip_adapter_scale: float = IP_ADAPTER_SCALE
    controlnet_conditioning_scale: float = 0.8
    rank: int = 64

    def __post_init__(self):
        for name in ("steps", "teacher_steps", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"distillation {name}={getattr(self, name)}: expected 1 or more")
        if self.steps * self.teacher_steps > MOST_STEPS:
            raise InputError(
                f"distillation steps={self.steps} of {self.teacher_steps} teacher_steps each: "
                f"expected at most {MOST_STEPS} of the teacher's"
            )
        strengths = ("guidance_scale", "ip_adapter_scale", "controlnet_conditioning_scale")
        for name in strengths:
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"distillation {name}={value}: expected 0 or more")

    @property
    def sampling(self) -> dict[str, Any]:
        """How to sample with the LoRA: settings of a `Request`."""
        return {
            "scheduler": "euler_trailing",
            "num_inference_steps": self.steps,
            "guidance_scale": 1,
            "ip_adapter_scale": self.ip_adapter_scale,
            "controlnet_conditioning_scale": self.controlnet_conditioning_scale,
        }


@dataclasses.dataclass(frozen=True)
class Student:
    """A student, and its teacher.

    Attributes:
      guidance_scale: the teacher's.
      zero_negative: whether the teacher's negative prompt is encoded as zeros, not as "".
    """

    config: DistillationConfig
    guidance_scale: float
    zero_negative: bool
