"""The networks of training: which are trained, and which stay frozen."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, Self

from instantid_jax.params import Network, Params, split_parts
from instantid_jax.runs.trained_lora import merged
from train.distillation.config import Student
from train.distillation.factors import Factors
from train.identity.onnx_network import OnnxNetwork

# The base model's networks, and InstantID's parts.
FROZEN = ("unet", "vae", "text_encoder", "text_encoder_2")
INSTANTID = ("image_proj", "ip_adapter", "controlnet")
Trainable = Literal["all", "adapter", "identitynet"]
# The parts that each choice trains. The Image Adapter has two: Resampler, and ID keys and values.
TRAINABLE: dict[Trainable, tuple[str, ...]] = {
    "all": INSTANTID,
    "adapter": ("image_proj", "ip_adapter"),
    "identitynet": ("controlnet",),
}


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of training. Only the identity loss uses the VAE's decoder.

    Attributes:
      student: a LoRA of the UNet is trained, InstantID's parts are frozen.
      trainable: InstantID's parts that are trained.
      lora_rank: a LoRA of `trainable` is trained, and their weights are frozen.
    """

    unet: Network
    controlnet: Network
    image_proj: Network
    vae: Network
    text_encoder: Network
    text_encoder_2: Network
    recognizer: OnnxNetwork | None = None
    student: Student | None = None
    trainable: tuple[str, ...] = INSTANTID
    lora_rank: int | None = None

    @property
    def frozen(self) -> dict[str, Network | OnnxNetwork | Factors]:
        """The networks whose weights do not change, by component name; "lora" is the teacher's."""
        names = [*FROZEN, *frozen_parts(self.trainable, self.lora_rank, self.student is not None)]
        found: dict[str, Network | OnnxNetwork | Factors] = {name: self.of(name) for name in names}
        if self.student is not None and self.student.config.lora is not None:
            found["lora"] = Factors(self.unet, self.student.config.rank)
        return found if self.recognizer is None else found | {"recognizer": self.recognizer}

    def stacked(self) -> Self:
        """These networks with the transformer blocks of each stack as one array per parameter."""
        unet, controlnet = (
            dataclasses.replace(network, stacked=True) for network in (self.unet, self.controlnet)
        )
        return dataclasses.replace(self, unet=unet, controlnet=controlnet)

    def of(self, component: str) -> Network:
        """The network of a component; the Image Adapter's is the UNet."""
        return self.unet if component == "ip_adapter" else getattr(self, component)

    def instantid(self, frozen: Mapping[str, Params], trained: Params) -> dict[str, Params]:
        """The parameters of all of InstantID's parts, unless there is a student.

        Args:
          frozen: parameters by the names of `self.frozen`.
          trained: the trainables, prefixed by part.
        """
        parts = split_parts(trained)
        if self.lora_rank is not None:
            parts = {
                name: merged(self.of(name), frozen[name], trained, component=name)
                for name in self.trainable
            }
        return {name: parts[name] if name in parts else frozen[name] for name in INSTANTID}


def frozen_parts(
    trainable: tuple[str, ...], lora_rank: int | None, distills: bool = False
) -> list[str]:
    """InstantID's parts whose weights do not change; the arguments are those of `Networks`."""
    every = distills or lora_rank is not None
    return [name for name in INSTANTID if every or name not in trainable]
