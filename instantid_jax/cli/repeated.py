"""Refuses an option that takes several values and is given twice: the parser drops the first."""

import dataclasses
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin

from instantid_jax.errors import InputError


def check_repeated(command: Callable[..., None], args: Sequence[str]) -> None:
    """Checks the arguments of a command.

    Raises:
      InputError: for such an option.
    """
    given = Counter(arg.partition("=")[0] for arg in args if arg.startswith("--"))
    for name, parameter in inspect.signature(command).parameters.items():
        for option in _options_of_several(name, parameter.annotation):
            if given[option] > 1:
                raise InputError(
                    f"{option} is given {given[option]} times: give it once, with all its values "
                    "after it"
                )


def _options_of_several(name: str, annotation: Any) -> Iterator[str]:
    """The options with several values of an argument, which may be a group of arguments."""
    if get_origin(annotation) is Annotated:
        annotation, *notes = get_args(annotation)
        # tyro's own name for the option.
        name = next((n.name for n in notes if getattr(n, "name", None)), name)
    if dataclasses.is_dataclass(annotation):
        for field in dataclasses.fields(annotation):
            yield from _options_of_several(field.name, field.type)
        return
    if any(get_origin(kind) is tuple for kind in (annotation, *get_args(annotation))):
        yield f"--{name.replace('_', '-')}"
