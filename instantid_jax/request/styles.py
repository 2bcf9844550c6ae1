"""Styles: templates that add words to a prompt and to a negative prompt."""

import dataclasses
import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from instantid_jax.errors import InputError
from instantid_jax.request.checks import check_text, shortened

logger = logging.getLogger(__name__)

# Where a template takes the prompt.
PLACE = "{prompt}"
# Names in a message.
MOST_NAMES = 12


@dataclasses.dataclass(frozen=True)
class Style:
    """A named template.

    Attributes:
      name: what it is chosen by.
      prompt: `{prompt}` stands for the prompt, which otherwise comes first.
      negative_prompt: the same for the negative prompt, which otherwise comes last.
    """

    name: str
    prompt: str = ""
    negative_prompt: str = ""

    def positive(self, prompt: str) -> str:
        """A prompt in this style."""
        return _filled(self.prompt, prompt, _joined(prompt, self.prompt))

    def negative(self, prompt: str | None) -> str | None:
        """A negative prompt in this style; None if there are no words."""
        if not self.negative_prompt.strip():
            return prompt
        given = prompt or ""
        return _filled(self.negative_prompt, given, _joined(self.negative_prompt, given))


def _filled(template: str, prompt: str, otherwise: str) -> str:
    """The template around a prompt; `otherwise` if it has no place for one."""
    if PLACE not in template:
        return otherwise
    filled = template.replace(PLACE, prompt)
    return filled if prompt.strip() else filled.strip(" ,")


def _joined(first: str, second: str) -> str:
    if not first.strip() or not second.strip():
        return first if first.strip() else second.strip()
    return f"{first.rstrip(' ,')}, {second.lstrip(' ,')}"


# The names of the official demo. The prompt comes first: of a long one, what is said first counts
# most, and only the first 75 tokens reach the pooled state and IdentityNet.
STYLES = tuple(
    Style(name, f"{PLACE}, {prompt}", negative)
    for name, prompt, negative in (
        ("Watercolor", "watercolor painting, soft washes, paper texture", "photograph"),
        ("Film Noir", "film noir, black and white, hard light, deep shadows", "color"),
        ("Neon", "lit by neon signs at night, glowing colors", "daylight"),
        ("Jungle", "in a dense green jungle, large leaves, dappled sunlight", "city, indoors"),
        ("Mars", "on the red desert of Mars, dusty sky", "plants, water, blue sky"),
        ("Vibrant Color", "vivid saturated colors, bright light", "black and white, dull colors"),
        ("Snow", "in falling snow, cold winter light", "summer, green leaves"),
        ("Line art", "line art, clean black ink lines on white paper", "photograph, shading"),
    )
)


def find_style(name: Any, styles: Iterable[Style] = STYLES) -> Style:
    """The style of a name; upper and lower case are alike unless names differ in nothing else.

    Raises:
      InputError: if there is none.
    """
    if not isinstance(name, str):
        raise InputError(f"style={shortened(name)}: expected the name of a style, or a Style")
    named = {style.name: style for style in styles}
    folded = {known.casefold(): style for known, style in named.items()}
    found = named.get(name) or folded.get(name.strip().casefold())
    if found is not None:
        return found
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(folded[each].name for each in near)}?"
    else:
        more = ", ..." if len(named) > MOST_NAMES else ""
        hint = f"expected one of {', '.join([*named][:MOST_NAMES])}{more}"
    raise InputError(f"style={shortened(name)}: no style has this name; {hint}")


def with_style(
    style: Any, given: Mapping[str, Any], styles: Iterable[Style] = STYLES
) -> dict[str, Any]:
    """Arguments of a call, with the prompts in a style; logs them.

    Args:
      style: a name, or a Style.
      given: by name; `prompt` and `negative_prompt` may be lists.
    Raises:
      InputError: for an unknown style, and without a prompt.
    """
    chosen = style if isinstance(style, Style) else find_style(style, styles)
    if given.get("prompt") is None:
        raise InputError(f"style={chosen.name!r} without a prompt: a style adds words to one")
    prompts = {
        "prompt": _of_each("prompt", chosen.positive, given["prompt"]),
        "negative_prompt": _of_each(
            "negative_prompt", chosen.negative, given.get("negative_prompt")
        ),
    }
    logger.info(
        "style %s: prompt %r, negative prompt %r",
        chosen.name,
        prompts["prompt"],
        prompts["negative_prompt"],
    )
    return {**given, **prompts}


def _of_each(name: str, applied: Callable[..., str | None], value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_of_each(name, applied, each) for each in cast(list[Any], value)]
    return applied(None if value is None else check_text(name, value))
