"""Presets of few-step models: the sampler, steps and guidance that their weights were made for.

Sources: the models' pages (ByteDance/SDXL-Lightning, ByteDance/Hyper-SD, tianweiy/DMD2,
stabilityai/sdxl-turbo, latent-consistency/lcm-lora-sdxl, h1t/TCD-SDXL-LoRA).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, Literal

from instantid_jax.errors import InputError

Fast = Literal[
    "lightning-4", "lightning-8", "hyper-8-cfg", "lcm", "tcd", "dmd2", "turbo", "miniature-4"
]
# The number of steps in the name of a file, as in sdxl_lightning_4step_unet.safetensors.
_IN_NAME = re.compile(r"(\d+)[-_ ]?steps?(?![a-z])", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Preset:
    """How a few-step model samples.

    Attributes:
      weights: what it is for, for messages.
      steps: the numbers of steps it was made for.
      settings: values of `Settings`; others that are given count instead.
    """

    weights: str
    steps: range
    settings: Mapping[str, Any]


def _only(steps: int) -> range:
    return range(steps, steps + 1)


def _preset(
    weights: str, steps: range, scheduler: str, usual: int, guidance: float = 1.0, **more: Any
) -> Preset:
    settings = {"scheduler": scheduler, "num_inference_steps": usual, "guidance_scale": guidance}
    return Preset(weights, steps, settings | more)


PRESETS: dict[Fast, Preset] = {
    "lightning-4": _preset("SDXL-Lightning of 4 steps", _only(4), "euler_trailing", 4),
    "lightning-8": _preset("SDXL-Lightning of 8 steps", _only(8), "euler_trailing", 8),
    "hyper-8-cfg": _preset("Hyper-SDXL's CFG LoRA of 8 steps", _only(8), "ddim_trailing", 8, 5.0),
    "lcm": _preset("LCM-LoRA", range(1, 17), "lcm", 8),
    "tcd": _preset("TCD-LoRA", range(1, 51), "tcd", 4, eta=0.3),
    "dmd2": _preset("DMD2 of 4 steps", _only(4), "lcm", 4, timesteps=(999, 749, 499, 249)),
    "turbo": _preset("SDXL-Turbo", range(1, 5), "euler_ancestral_trailing", 4),
    "miniature-4": _preset(
        "the embedded model with its LoRA miniature-4", _only(4), "euler_trailing", 4
    ),
}


def preset(name: Any) -> Preset:
    """The preset of a name.

    Raises:
      InputError: if there is none.
    """
    if name not in PRESETS:
        raise InputError(f"fast={name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def with_preset(name: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a preset, and those that are given instead.

    Args:
      given: by name; None is not given.
    Raises:
      InputError: for an unknown preset, or a number of steps that its weights were not made for.
    """
    values = {key: value for key, value in given.items() if value is not None}
    settings = dict(preset(name).settings)
    if "num_inference_steps" in values:
        check_steps(name, values["num_inference_steps"])
    for explicit, ends in (("timesteps", 0), ("sigmas", 1)):
        if explicit in values:
            check_steps(name, len(values[explicit]) - ends)
            settings.pop("timesteps", None)
    return settings | values


def check_steps(name: Any, steps: Any) -> None:
    """Raises an InputError unless the weights of a preset were made for a number of steps."""
    chosen = preset(name)
    if steps not in chosen.steps:
        first, last = chosen.steps[0], chosen.steps[-1]
        made_for = f"{first} to {last} steps" if last > first else f"{first} steps"
        raise InputError(
            f"num_inference_steps={steps} with fast={name!r}: {chosen.weights} is made for "
            f"{made_for}; leave the number out, or choose another preset"
        )


def check_files(name: Any, files: Iterable[str]) -> None:
    """Raises an InputError for a file whose name says another number of steps than the preset's.

    Args:
      files: paths or hub ids of LoRAs and of the UNet.
    """
    chosen = preset(name)
    if len(chosen.steps) > 1:
        return
    (steps,) = chosen.steps
    for file in files:
        said = [int(number) for number in _IN_NAME.findall(PurePath(file).name)]
        if said and steps not in said:
            raise InputError(
                f"{file} is made for {said[0]} steps by its name, fast={name!r} for {steps}: "
                "choose weights for as many steps"
            )
