"""`--like FILE`: what a PNG records becomes the defaults of a command's flags."""

import argparse
import functools
import inspect
import logging
import sys
from collections.abc import Callable, Sequence

from instantid_jax.paths import local_path
from instantid_jax.request.provenance import Provenance
from instantid_jax.signatures import with_signature

logger = logging.getLogger(__name__)


def with_recorded_defaults(
    command: Callable[..., None], args: Sequence[str] | None
) -> Callable[..., None]:
    """The command with the defaults that the file of its `--like` records, if `args` name one.

    Args:
      command: takes `prompt`, `weights` and `settings`.
      args: None is the command line's.
    Raises:
      InputError: if the file does not say how it was made.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--like", type=local_path)
    for name in ("--sdxl", "--instantid", "--model"):
        parser.add_argument(name, dest="weights")
    try:
        given, _ = parser.parse_known_args(sys.argv[1:] if args is None else list(args))
    except argparse.ArgumentError:
        return command  # The command's own parser says what is wrong.
    if not given.like:  # argparse makes an empty list of `--like=--`.
        return command
    recorded = Provenance.read(given.like)
    defaults = {
        "prompt": recorded.request.prompt,
        "settings": recorded.request.image(recorded.image).settings,
    }
    signature = inspect.signature(command)
    weights = type(signature.parameters["weights"].default)
    if given.weights is None and recorded.facts.get("weights") is not None:
        names = ("dtype", "vae_dtype", "mesh")
        own = {name: recorded.facts.get(name) for name in names}
        defaults["weights"] = weights(**recorded.facts["weights"] | own)
        named = {name: value for name, value in recorded.facts["weights"].items() if value}
        logger.info("weights recorded in %s: %s", given.like, named or "the embedded miniature")

    @functools.wraps(command)
    def with_defaults(*arguments: object, **options: object) -> None:
        command(*arguments, **options)

    changed = signature.replace(
        parameters=[
            parameter.replace(default=defaults.get(name, parameter.default))
            for name, parameter in signature.parameters.items()
        ]
    )
    return with_signature(with_defaults, changed)
