"""The `instantid` command."""

import sys
from collections.abc import Sequence

from instantid_jax.cli.entry import entry, run_command
from instantid_jax.cli.version import print_versions


def main(args: Sequence[str] | None = None) -> None:
    """Runs a subcommand. Bad input ends with one line and status 2."""
    with entry("instantid"):
        given = list(sys.argv[1:] if args is None else args)
        if given == ["--version"]:
            print_versions()
        else:
            _run(given)


def _run(args: Sequence[str]) -> None:
    from instantid_jax.cli.defaults import name_preset, with_named_defaults
    from instantid_jax.cli.demo import demo
    from instantid_jax.cli.embed import embed
    from instantid_jax.cli.generate import generate
    from instantid_jax.cli.serve import serve
    from instantid_jax.cli.styles import styles
    from instantid_jax.cli.ui import ui
    from instantid_jax.cli.warmup import warmup

    args = name_preset(args)
    commands = {
        "generate": with_named_defaults(generate, args),
        "embed": embed,
        "demo": with_named_defaults(demo, args),
        "serve": with_named_defaults(serve, args),
        "styles": styles,
        "ui": with_named_defaults(ui, args),
        "warmup": warmup,
    }

    run_command(
        "instantid",
        commands,
        args,
        "Puts a person, given by a photo, into any image: InstantID in JAX. "
        "`instantid --version` reports versions and devices.",
    )
