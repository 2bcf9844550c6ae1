"""Sampler names. Only strings, so that a command line can list them without JAX."""

from typing import Any

from instantid_jax.errors import InputError

EULER = "EulerDiscreteScheduler"
EULER_ANCESTRAL = "EulerAncestralDiscreteScheduler"
HEUN = "HeunDiscreteScheduler"
DDIM = "DDIMScheduler"
DDPM = "DDPMScheduler"
PNDM = "PNDMScheduler"
DPM = "DPMSolverMultistepScheduler"
DPM_SDE = "DPMSolverSDEScheduler"
DEIS = "DEISMultistepScheduler"
UNIPC = "UniPCMultistepScheduler"
LCM = "LCMScheduler"
TCD = "TCDScheduler"

# diffusers' class for each name, and the settings that override the checkpoint's in `from_config`.
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": (EULER, {}),
    "euler_ancestral": (EULER_ANCESTRAL, {}),
    "heun": (HEUN, {}),
    "ddim": (DDIM, {}),
    "ddpm": (DDPM, {}),
    "pndm": (PNDM, {}),
    "dpmpp_2m": (DPM, {}),
    "dpmpp_2m_sde": (DPM, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_sde": (DPM_SDE, {}),
    "dpmpp_3m": (DPM, {"solver_order": 3}),
    "deis": (DEIS, {}),
    "unipc": (UNIPC, {}),
    "lcm": (LCM, {}),
    "tcd": (TCD, {}),
}
# These choose among the timesteps that their models were distilled on.
DISTILLED = (LCM, TCD)
WITH_KARRAS = (EULER, HEUN, DPM, DPM_SDE, DEIS, UNIPC)


def _variants() -> dict[str, tuple[str, dict[str, Any]]]:
    found = dict(BASES)
    for name, (class_name, settings) in BASES.items():
        if class_name not in DISTILLED:
            for spacing in ("trailing", "linspace"):
                found[f"{name}_{spacing}"] = class_name, settings | {"timestep_spacing": spacing}
        if class_name in WITH_KARRAS:
            found[f"{name}_karras"] = class_name, settings | {"use_karras_sigmas": True}
    return found


SAMPLERS = _variants()


def check_sampler(name: str, value: Any) -> str:
    """A name of `SAMPLERS`, given as the argument `name`."""
    if not isinstance(value, str) or value not in SAMPLERS:
        karras = ", ".join(base for base, (kind, _) in BASES.items() if kind in WITH_KARRAS)
        raise InputError(
            f"{name}={repr(value)[:80]}: expected None or one of {', '.join(BASES)}; with "
            f"_trailing or _linspace added (not to lcm and tcd), or with _karras ({karras})"
        )
    return value
