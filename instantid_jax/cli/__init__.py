"""The `instantid` command."""

import logging
import sys
from collections.abc import Sequence

from instantid_jax.errors import InputError


def main(args: Sequence[str] | None = None) -> None:
    """Runs a subcommand. Bad input ends with one line and status 2."""
    # Before the imports, one of which would configure logging itself.
    logging.basicConfig(format="instantid: %(message)s", level=logging.WARNING)
    # Ours tells what will be fetched, and how much.
    logging.getLogger("instantid_jax").setLevel(logging.INFO)
    import tyro

    from instantid_jax.cli.demo import demo
    from instantid_jax.cli.embed import embed
    from instantid_jax.cli.generate import generate

    commands = {"generate": generate, "embed": embed, "demo": demo}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, args=args, prog="instantid", description=__doc__
        )
    except InputError as error:
        sys.exit(_told(error))


def _told(error: InputError) -> int:
    print(f"instantid: error: {error}", file=sys.stderr)
    return 2
