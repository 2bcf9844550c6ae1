"""The form of the page: what its controls say, as settings, and back."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from instantid_jax.errors import InputError
from instantid_jax.request.fast import preset, with_preset
from instantid_jax.request.settings import Settings
from instantid_jax.request.styles import Style, find_style
from instantid_jax.serving.page.painting import CHANGES
from instantid_jax.serving.page.sizes import LIKE_PHOTO, Size, parse_size, size_name

# Choices that leave something out.
NO_STYLE, NO_PRESET, OWN_SAMPLER = "none", "off", "the model's own"
# Controls that stand for one setting each, by the names of both.
NUMBERS = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "identity": "controlnet_conditioning_scale",
    "adapter": "ip_adapter_scale",
}
# Settings that have a control; all others are in the JSON of `more`.
WITH_CONTROL = {
    *NUMBERS.values(),
    *("negative_prompt", "scheduler", "height", "width", "seed", "num_images_per_prompt"),
    "strength",
}
# How much of an image changes where nobody says it.
STRENGTH = 0.8

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Choices:
    """Choices of the form that depend on the model.

    Attributes:
      styles: by which prompts may be extended.
      sizes: (height, width), the usual one first.
      guidance_scale: the model's own.
    """

    styles: tuple[Style, ...]
    sizes: tuple[Size, ...]
    guidance_scale: float


def values_of(settings: Settings, prompt: str | None, choices: Choices) -> Values:
    """The form for settings; what no control shows goes into the JSON of `more`."""
    rest = {}
    for name, value in settings.to_json().items():
        if name not in WITH_CONTROL and value != _DEFAULTS[name]:
            rest[name] = value
    values: Values = {
        "prompt": prompt or "",
        "negative_prompt": settings.negative_prompt or "",
        "style": NO_STYLE,
        "fast": NO_PRESET,
        "scheduler": settings.scheduler or OWN_SAMPLER,
        "size": LIKE_PHOTO,
        "images": settings.num_images_per_prompt,
        "seed": settings.seed,
        "random_seed": False,
        "change": CHANGES[0],
        "strength": STRENGTH if settings.strength is None else settings.strength,
    }
    if settings.height is not None and settings.width is not None:
        values["size"] = size_name((settings.height, settings.width))
    for control, name in NUMBERS.items():
        value = getattr(settings, name)
        if value is None:
            value = choices.guidance_scale
        elif not isinstance(value, int | float):
            # One for each block or ControlNet, which a slider cannot show.
            rest[name] = settings.to_json()[name]
            value = _DEFAULTS[name]
        values[control] = value
    values["more"] = json.dumps(rest, ensure_ascii=False) if rest else ""
    return values


def settings_of(values: Values, choices: Choices, photo: Size | None, *, image: bool) -> Values:
    """Settings by name, and the words that the style changes, for a `Request`.

    Args:
      values: the form's; the seed is decided.
      photo: (height, width) of the photo; None without one.
      image: whether there is an image to begin with.
    Raises:
      InputError: for a value that no model takes.
    """
    more = parse_more(values["more"])
    settings: Values = {name: values[control] for control, name in NUMBERS.items()}
    settings["seed"] = whole("seed", values["seed"])
    settings["num_images_per_prompt"] = whole("images", values["images"])
    settings["num_inference_steps"] = whole("steps", values["steps"])
    if values["negative_prompt"].strip():
        settings["negative_prompt"] = values["negative_prompt"]
    if values["scheduler"] != OWN_SAMPLER:
        settings["scheduler"] = values["scheduler"]
    if image and "denoising_start" not in more:
        settings["strength"] = values["strength"]
    if "height" not in more and "width" not in more:
        size = parse_size(values["size"], choices.sizes, photo)
        settings["height"], settings["width"] = size
    settings |= more
    if "timesteps" in more or "sigmas" in more:
        # They say how many steps there are.
        settings.pop("num_inference_steps")
    if values["fast"] != NO_PRESET:
        settings = with_preset(values["fast"], settings)
    settings = Settings.from_json(settings).values()
    prompt = values["prompt"].strip()
    if not prompt:
        raise InputError("the prompt is empty: describe the image")
    settings["prompt"] = prompt
    if values["style"] != NO_STYLE:
        style = find_style(values["style"], choices.styles)
        settings["prompt"] = style.positive(prompt)
        settings["negative_prompt"] = style.negative(settings["negative_prompt"])
    return settings


def style_facts(values: Values) -> Values:
    """Facts that an image records about its style."""
    if values["style"] == NO_STYLE:
        return {}
    words = {
        "prompt": values["prompt"].strip(),
        "negative_prompt": values["negative_prompt"].strip() or None,
    }
    return {"style": {"name": values["style"], **words}}


def unstyled(values: Values, style: Mapping[str, Any] | None, known: Sequence[Style]) -> Values:
    """The form of an image, with its style chosen instead of the words it added."""
    if style is None or style.get("name") not in {each.name for each in known}:
        return values
    return values | {
        "style": style["name"],
        "prompt": style["prompt"],
        "negative_prompt": style["negative_prompt"] or "",
    }


def preset_values(fast: str, choices: Choices, usual: Settings) -> Values:
    """The controls that choosing a preset changes; `usual` without one."""
    settings = usual.values() if fast == NO_PRESET else preset(fast).settings
    guidance = settings["guidance_scale"]
    return {
        "steps": settings["num_inference_steps"],
        "guidance": choices.guidance_scale if guidance is None else guidance,
        "scheduler": settings["scheduler"] or OWN_SAMPLER,
    }


def parse_more(text: str | None) -> Values:
    """The settings in the form's JSON.

    Raises:
      InputError: if it is not an object in JSON.
    """
    if not text or not text.strip():
        return {}
    try:
        given = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise InputError(f"more settings: not valid JSON ({error})") from error
    if not isinstance(given, dict):
        raise InputError('more settings: expected an object, such as {"pag_scale": 3}')
    return cast(Values, given)


def whole(name: str, value: Any) -> int:
    """A whole number of the form, which browsers may send as 4.0.

    Raises:
      InputError: if it is none.
    """
    if not isinstance(value, int | float) or value != value // 1:
        raise InputError(f"{name}={value!r}: expected a whole number")
    return int(value)


_DEFAULTS = Settings().to_json()
