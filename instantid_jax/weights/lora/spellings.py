"""The names that LoRA files give to the weights of SDXL.

Trainers turn dots into underscores, which cannot be undone by rule. So nothing is parsed: every
name is made from one of ours and looked up.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import jax

from instantid_jax.components import component_shapes
from instantid_jax.errors import InputError
from instantid_jax.models.unet import UNetConfig
from instantid_jax.params import Network
from instantid_jax.weights.names import torch_name
from instantid_jax.weights.original import unet_name

# The networks that LoRAs change; those of InstantID keep their weights.
PARTS = ("unet", "text_encoder", "text_encoder_2")
# kohya's prefix and diffusers' of each.
PREFIXES = {
    "unet": ("lora_unet_", "unet."),
    "text_encoder": ("lora_te1_", "text_encoder."),
    "text_encoder_2": ("lora_te2_", "text_encoder_2."),
}
# Names of attention projections in files of diffusers before 0.18, by today's.
PROCESSOR = {
    "to_q": "to_q_lora",
    "to_k": "to_k_lora",
    "to_v": "to_v_lora",
    "to_out.0": "to_out_lora",
}
TEXT_PROCESSOR = {
    "q_proj": "to_q_lora",
    "k_proj": "to_k_lora",
    "v_proj": "to_v_lora",
    "out_proj": "to_out_lora",
}
TEXT_MODEL = "text_model."


@dataclasses.dataclass(frozen=True)
class Target:
    """A layer that a LoRA can change.

    Attributes:
      part: one of `PARTS`.
      weight, bias: our names of its parameters; bias is None where it has none.
      shape: the weight's, in torch's layout.
      axes: order of the torch weight's axes in ours.
    """

    part: str
    weight: str
    bias: str | None
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def is_norm(self) -> bool:
        return self.weight.endswith(".scale")


def spellings(networks: Mapping[str, Network]) -> dict[str, Target]:
    """The layers of SDXL by every name that a file may give them.

    Args:
      networks: those of `PARTS`.
    Raises:
      InputError: if a name stands for two layers.
    """
    found: dict[str, Target] = {}
    for part in PARTS:
        net = networks[part]
        for module, target in targets(part, component_shapes(part, net)).items():
            for spelling in set(_spelled(part, module, net.config)):
                if found.setdefault(spelling, target) != target:
                    raise InputError(f"{spelling} stands for two layers of these networks")
    return found


def targets(part: str, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Target]:
    """The matrices, convolutions and norms of a network, by torch's name of the module."""
    found = {}
    for name, want in shapes.items():
        module, _, leaf = name.rpartition(".")
        if leaf in ("kernel", "scale"):
            _, axes = torch_name(name, len(want.shape))
            shape = tuple(want.shape[axes.index(i)] for i in range(len(axes)))
            bias = f"{module}.bias"
            found[module] = Target(part, name, bias if bias in shapes else None, shape, axes)
    return found


def _spelled(part: str, module: str, config: object) -> Iterator[str]:
    kohya, diffusers = PREFIXES[part]
    if part == "unet":
        names = [module]
        yield f"lycoris_{_flat(module)}"
        if isinstance(config, UNetConfig) and isinstance(config.layers_per_block, int):
            original = unet_name(f"{module}.weight", config).rpartition(".")[0]
            names.append(original)
            yield f"diffusion_model.{original}"
            yield f"model.diffusion_model.{original}"
        yield module
        for ours, old in PROCESSOR.items():
            if ".attn" in module and module.endswith(f".{ours}"):
                attention = module.removesuffix(f".{ours}")
                yield f"{attention}.processor.{old}"
                yield f"{diffusers}{attention}.processor.{old}"
        yield f"{diffusers}{module}"
    else:
        # Newer versions of transformers leave the prefix out.
        names = [module, module.removeprefix(TEXT_MODEL)]
        for name in names:
            yield f"{diffusers}{name}"
            attention, _, projection = name.rpartition(".")
            if projection in TEXT_PROCESSOR:
                yield f"{diffusers}{attention}.{TEXT_PROCESSOR[projection]}"
    for name in names:
        yield f"{kohya}{_flat(name)}"


def _flat(name: str) -> str:
    return name.replace(".", "_")
