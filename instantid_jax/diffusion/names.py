"""Sampler names. Only strings, so that a command line can list them without JAX."""

from typing import Any, Literal, get_args

from instantid_jax.errors import InputError

SamplerName = Literal[
    "euler",
    "euler_trailing",
    "euler_ancestral",
    "ddim",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde",
    "unipc",
    "lcm",
]
SAMPLER_NAMES: tuple[SamplerName, ...] = get_args(SamplerName)

EULER = "EulerDiscreteScheduler"
EULER_ANCESTRAL = "EulerAncestralDiscreteScheduler"
DDIM = "DDIMScheduler"
DPM = "DPMSolverMultistepScheduler"
UNIPC = "UniPCMultistepScheduler"
LCM = "LCMScheduler"

# diffusers' class for each name, and the settings that override the checkpoint's in `from_config`.
SAMPLERS: dict[SamplerName, tuple[str, dict[str, Any]]] = {
    "euler": (EULER, {}),
    "euler_trailing": (EULER, {"timestep_spacing": "trailing"}),
    "euler_ancestral": (EULER_ANCESTRAL, {}),
    "ddim": (DDIM, {}),
    "dpmpp_2m": (DPM, {}),
    "dpmpp_2m_karras": (DPM, {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": (DPM, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (UNIPC, {}),
    "lcm": (LCM, {}),
}


def check_sampler(name: str, value: Any) -> SamplerName:
    """A name of `SAMPLERS`, given as the argument `name`."""
    if value not in SAMPLER_NAMES:
        raise InputError(f"{name}={value!r}: expected None or one of {', '.join(SAMPLER_NAMES)}")
    return value
