"""The `instantid` command."""

import errno
import logging
import re
import sys
from collections.abc import Sequence

from instantid_jax.errors import InputError

# Debian's and Ubuntu's packages of the system libraries that OpenCV and onnxruntime need.
PACKAGES = {
    "libGL.so.1": "libgl1",
    "libgomp.so.1": "libgomp1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libxcb.so.1": "libxcb1",
}
# Of a disk, not of a program.
DISK = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS)


def main(args: Sequence[str] | None = None) -> None:
    """Runs a subcommand. Bad input ends with one line and status 2."""
    # Before the imports, one of which would configure logging itself.
    logging.basicConfig(format="instantid: %(message)s", level=logging.WARNING)
    # Ours tells what will be fetched, and how much.
    logging.getLogger("instantid_jax").setLevel(logging.INFO)
    try:
        _run(args)
    except InputError as error:
        sys.exit(_told(str(error), 2))
    except ImportError as error:
        library = re.match(r"(lib\S+): cannot open shared object file", str(error))
        if library is None:
            raise
        name = library[1]
        how = f" (Debian, Ubuntu: apt-get install {PACKAGES[name]})" if name in PACKAGES else ""
        sys.exit(_told(f"the system library {name} is missing: install it{how}", 1))
    except OSError as error:
        if error.errno not in DISK:
            raise
        sys.exit(_told(f"{error.filename or 'writing'}: {error.strerror}", 1))
    except KeyboardInterrupt:
        sys.exit(_told("interrupted", 130))


def _run(args: Sequence[str] | None) -> None:
    import tyro

    from instantid_jax.cli.demo import demo
    from instantid_jax.cli.embed import embed
    from instantid_jax.cli.generate import generate

    tyro.extras.subcommand_cli_from_dict(
        {"generate": generate, "embed": embed, "demo": demo},
        args=args,
        prog="instantid",
        description="Puts a person, given by a photo, into any picture: InstantID in JAX.",
        config=(
            tyro.conf.DisallowNone,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.HelptextFromCommentsOff,
            tyro.conf.OmitArgPrefixes,
        ),
    )


def _told(message: str, status: int) -> int:
    print(f"instantid: error: {message}", file=sys.stderr)
    return status
