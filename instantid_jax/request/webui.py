"""The text that AUTOMATIC1111's web UI keeps in images, "parameters": written and read."""

import json
import logging
import re
from typing import Any

from instantid_jax.diffusion.names import BASES
from instantid_jax.errors import InputError
from instantid_jax.image_files import COMMENT
from instantid_jax.request.settings import Settings

logger = logging.getLogger(__name__)

KEY = COMMENT
# The page's names of samplers, in lower case; its schedule type may follow or stand by itself.
SAMPLERS: dict[str, str] = {
    "euler": "euler",
    "euler karras": "euler_karras",
    "euler a": "euler_ancestral",
    "heun": "heun",
    "heun karras": "heun_karras",
    "ddim": "ddim",
    "plms": "pndm",
    "dpm++ 2m": "dpmpp_2m",
    "dpm++ 2m karras": "dpmpp_2m_karras",
    "dpm++ 2m sde": "dpmpp_2m_sde",
    "dpm++ 2m sde karras": "dpmpp_2m_sde_karras",
    "dpm++ sde": "dpmpp_sde",
    "dpm++ sde karras": "dpmpp_sde_karras",
    "unipc": "unipc",
    "lcm": "lcm",
}
# The page's names for ours, without spacing and Karras' sigmas; and for diffusers' classes.
LABELS = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "pndm": "PLMS",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_3m": "DPM++ 3M",
    "deis": "DEIS",
    "unipc": "UniPC",
    "lcm": "LCM",
    "tcd": "TCD",
}
CLASS_LABELS = {BASES[name][0]: label for name, label in reversed(LABELS.items())}
NEGATIVE = "Negative prompt: "
# The page's setting that takes brackets literally; its other values are formulas for weights.
EMPHASIS, LITERAL = "Emphasis", "None"
# "Steps: 20, Sampler: Euler a, Extra: "quoted, with a comma"".
_FIELD = re.compile(r'\s*([A-Za-z][\w +/-]*):\s*("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')


def write_parameters(prompt: str, settings: Settings, scheduler: str, version: str) -> str:
    """The text for one image.

    Args:
      settings: with height, width and guidance_scale.
      scheduler: ours, or diffusers' class where the checkpoint's own was used.
    """
    lines = [prompt]
    if settings.negative_prompt:
        lines.append(NEGATIVE + settings.negative_prompt)
    literal = {} if settings.prompt_weighting else {EMPHASIS: LITERAL}
    facts = {
        "Steps": settings.num_inference_steps,
        "Sampler": _label(scheduler),
        "CFG scale": settings.guidance_scale,
        "Seed": settings.seed,
        "Size": f"{settings.width}x{settings.height}",
        **literal,
        "Version": f"instantid_jax {version}",
    }
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items()))
    return "\n".join(lines)


def read_parameters(text: str) -> dict[str, Any]:
    """Fields of a Request out of such a text: prompts, steps, sampler, scale, seed and size.

    Raises:
      InputError: if the text ends in no line of settings.
    """
    *words, last = text.strip().split("\n")
    fields = {name.strip(): _unquoted(value) for name, value in _FIELD.findall(last)}
    if "Steps" not in fields:
        raise InputError(f'{KEY!r} ends in "{last[:60]}": expected "Steps: 20, Sampler: ..."')
    prompt, marker, negative = "\n".join(words).partition(NEGATIVE)
    values: dict[str, Any] = {"prompt": prompt.rstrip("\n")}
    if marker:
        values["negative_prompt"] = negative
    if fields.get(EMPHASIS) == LITERAL:
        values["prompt_weighting"] = False
    values["scheduler"] = _scheduler(fields)
    try:
        values["num_inference_steps"] = int(fields["Steps"])
        if "CFG scale" in fields:
            values["guidance_scale"] = float(fields["CFG scale"])
        if "Seed" in fields:
            values["seed"] = int(fields["Seed"])
        if "Size" in fields:
            width, height = map(int, fields["Size"].split("x"))
            values |= {"width": width, "height": height}
    except ValueError as error:
        raise InputError(f"{KEY!r} has a setting that is not a number: {error}") from error
    return values


def _label(scheduler: str) -> str:
    """The page's name of a sampler's name or of a class of diffusers."""
    name, karras, _ = scheduler.partition("_karras")
    base = name.removesuffix("_trailing").removesuffix("_linspace")
    label = CLASS_LABELS.get(base) or LABELS[base]
    return f"{label} Karras" if karras else label


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except json.JSONDecodeError:
            return value
    return value.strip()


def _scheduler(fields: dict[str, str]) -> str | None:
    name = fields.get("Sampler", "").lower()
    schedule = fields.get("Schedule type", "").lower()
    if name and schedule == "karras":
        name = f"{name} karras"
    if name and name not in SAMPLERS:
        logger.warning("sampler %r is not supported: the checkpoint's own is used", name)
    return SAMPLERS.get(name)
