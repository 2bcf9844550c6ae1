"""Defaults of a command's flags: what `--like`'s image records, then the preset of `--fast`."""

import argparse
import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from instantid_jax.paths import local_path
from instantid_jax.request.fast import PRESETS, check_steps
from instantid_jax.request.provenance import Provenance
from instantid_jax.request.settings import Settings
from instantid_jax.signatures import with_signature

logger = logging.getLogger(__name__)

FAST = "--fast"
# The preset of `--fast` without a name.
OWN = "miniature-4"


def name_preset(args: Sequence[str]) -> list[str]:
    """The arguments, with the embedded model's preset after a `--fast` that names none."""
    named = []
    for arg, following in zip(args, [*args[1:], "--"], strict=True):
        named.append(arg)
        if arg == FAST and following.startswith("-"):
            named.append(OWN)
    return named


def with_named_defaults(command: Callable[..., Any], args: Sequence[str]) -> Callable[..., Any]:
    """The command with the defaults that the values of `--like` and `--fast` in `args` stand for.

    Args:
      command: takes `fast`, `weights` and `settings`, and with `like` also `prompt`.
    Raises:
      InputError: if the file does not say how it was made, or a number of steps is given that the
        preset's weights were not made for.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--like", type=local_path)
    parser.add_argument(FAST)
    parser.add_argument("--style")
    parser.add_argument("--num-inference-steps", type=int, dest="steps")
    for name in ("--sdxl", "--instantid", "--model"):
        parser.add_argument(name, dest="weights")
    try:
        given, _ = parser.parse_known_args(list(args))
    except argparse.ArgumentError:
        return command  # The command's own parser says what is wrong.
    signature = inspect.signature(command)
    defaults: dict[str, Any] = {}
    # argparse makes an empty list of `--like=--`.
    if given.like and "like" in signature.parameters:
        weights = type(signature.parameters["weights"].default)
        defaults = _recorded(given.like, weights, given.weights is None, given.style is not None)
    if given.fast in PRESETS:
        if given.steps is not None:
            check_steps(given.fast, given.steps)
        before: dict[str, Any] = {"timesteps": None, "sigmas": None, "eta": 0.0}
        defaults["settings"] = dataclasses.replace(
            defaults.get("settings", Settings()), **{**before, **PRESETS[given.fast].settings}
        )
    if not defaults:
        return command

    @functools.wraps(command)
    def with_defaults(*arguments: object, **options: object) -> Any:
        return command(*arguments, **options)

    changed = signature.replace(
        parameters=[
            parameter.replace(default=defaults.get(name, parameter.default))
            for name, parameter in signature.parameters.items()
        ]
    )
    return with_signature(with_defaults, changed)


def _recorded(
    like: Path, weights: Callable[..., Any], with_weights: bool, restyled: bool
) -> dict[str, Any]:
    """The prompt, settings and, if wanted, weights of an image.

    Args:
      restyled: whether the words of its style are left out.
    """
    recorded = Provenance.read(like)
    prompt, settings = recorded.request.prompt, recorded.request.alone(recorded.image).settings
    if restyled and (style := recorded.facts.get("style")) is not None:
        prompt = style["prompt"]
        settings = dataclasses.replace(settings, negative_prompt=style["negative_prompt"])
    defaults: dict[str, Any] = {"prompt": prompt, "settings": settings}
    if with_weights and recorded.facts.get("weights") is not None:
        names = ("dtype", "vae_dtype", "mesh", "vae_tiling")
        own = {name: recorded.facts.get(name) for name in names}
        defaults["weights"] = weights(**recorded.facts["weights"] | own)
        named = {name: value for name, value in recorded.facts["weights"].items() if value}
        logger.info("weights recorded in %s: %s", like, named or "the embedded miniature")
    return defaults
