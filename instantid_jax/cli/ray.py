"""`instantid_jax.cli.ray:build`, which Ray Serve imports: takes the flags of `instantid serve`."""

import contextlib
import functools
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tyro

from instantid_jax.cli import block_scales, path_arguments, serve
from instantid_jax.cli.defaults import with_named_defaults
from instantid_jax.cli.entry import parsing
from instantid_jax.cli.extras import check_extra
from instantid_jax.cli.faces import FacePack
from instantid_jax.cli.repeated import check_repeated
from instantid_jax.cli.weights import Weights
from instantid_jax.errors import InputError
from instantid_jax.request import Settings
from instantid_jax.request.fast import Fast
from instantid_jax.serving.http.limits import Limits
from instantid_jax.serving.ray.scaling import Scaling

PACKAGES = ("ray", *serve.PACKAGES)


def build(args: Mapping[str, Any]) -> Any:
    """The `ray.serve.Application`, from the `args` of its configuration.

    Args:
      args: flags of `instantid serve` by their names, with _ or -, except for those of the address,
        and those of `Scaling`.
    Raises:
      InputError: for flags that do not exist and values that cannot be used.
    """
    check_extra("ray", PACKAGES)
    flags = list(_flags(args))
    check_repeated(_application, flags)
    with path_arguments.registry, block_scales.registry:
        command = with_named_defaults(_application, flags)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                return tyro.cli(command, args=flags, prog="args", config=parsing())
        except SystemExit:
            words = re.sub(r"-{4,}|\s+", " ", said.getvalue()).split()
            raise InputError(f"args of the application: {' '.join(words)}") from None


def _flags(args: Mapping[str, Any]) -> Iterator[str]:
    """The arguments of a command line."""
    for name, value in args.items():
        if value is None or value is False:
            continue
        yield f"--{name.replace('_', '-')}"
        if value is not True:
            yield from map(str, value if isinstance(value, list | tuple) else (value,))


def _application(
    token_file: Path,
    scaling: Scaling = Scaling(),
    batching: serve.Batching = serve.Batching(),
    face: tuple[str, ...] = (),
    fast: Fast | None = None,
    weights: Weights = Weights(),
    settings: Settings = Settings(),
    limits: Limits = Limits(),
    face_pack: FacePack = FacePack(),
) -> Any:
    """The application; files are read on the nodes of the replicas.

    Args:
      token_file: a file with a token in each line, one of which each request must have.
      face: photos or .npz files of one person, for requests that name nobody.
      fast: preset of a few-step model: scheduler, steps and guidance, where no flags set them.
    """
    from instantid_jax.serving.ray.application import application

    make = functools.partial(
        serve.make_service,
        batching=batching,
        face=face,
        fast=fast,
        weights=weights,
        settings=settings,
        limits=limits,
        face_pack=face_pack,
    )
    return application(make, token_file, limits, scaling)
