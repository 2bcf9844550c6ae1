"""The `instantid` command."""

import sys
from collections.abc import Sequence

from instantid_jax.cli.entry import entry, run_command
from instantid_jax.cli.version import print_versions


def main(args: Sequence[str] | None = None) -> None:
    """Runs a subcommand. Bad input ends with one line and status 2."""
    with entry("instantid"):
        if list(sys.argv[1:] if args is None else args) == ["--version"]:
            print_versions()
        else:
            _run(args)


def _run(args: Sequence[str] | None) -> None:
    from instantid_jax.cli.demo import demo
    from instantid_jax.cli.embed import embed
    from instantid_jax.cli.generate import generate
    from instantid_jax.cli.like import with_recorded_defaults
    from instantid_jax.cli.warmup import warmup

    commands = {
        "generate": with_recorded_defaults(generate, args),
        "embed": embed,
        "demo": demo,
        "warmup": warmup,
    }

    run_command(
        "instantid",
        commands,
        args,
        "Puts a person, given by a photo, into any image: InstantID in JAX. "
        "`instantid --version` reports versions and devices.",
    )
