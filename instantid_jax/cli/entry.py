"""Shared by the `instantid` command and the programs: flags from functions, and exit statuses."""

import contextlib
import errno
import io
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from instantid_jax.atomic import IMPOSSIBLE
from instantid_jax.errors import InputError

# Debian's and Ubuntu's packages of the system libraries that OpenCV and onnxruntime need.
PACKAGES = {
    "libGL.so.1": "libgl1",
    "libgomp.so.1": "libgomp1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libxcb.so.1": "libxcb1",
}
RESEND_SECONDS = 0.1
FREE_MEMORY = "make smaller images or fewer at a time, compute in bfloat16, or use more devices"
# Errors of a disk, not of a program.
DISK = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def entry(name: str) -> Iterator[None]:
    """Runs a program, its imports included: bad input ends it with one line and status 2.

    An interrupt and SIGTERM end it with what is half-written cleaned up.
    """
    # Before the imports, one of which would configure logging itself.
    logging.basicConfig(format=f"{name}: %(message)s", level=logging.WARNING)
    # Ours tells what will be fetched, and how much.
    logging.getLogger("instantid_jax").setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What was computed is not lost to a name that the terminal cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        from instantid_jax.cli import block_scales, path_arguments

        _check_working_folder()
        with path_arguments.registry, block_scales.registry, _resending_lost_interrupts():
            yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except InputError as error:
        sys.exit(_told(name, str(error), 2))
    except ImportError as error:
        library = re.match(r"(lib\S+): cannot open shared object file", str(error))
        if library is None:
            raise
        file = library[1]
        how = f" (Debian, Ubuntu: apt-get install {PACKAGES[file]})" if file in PACKAGES else ""
        sys.exit(_told(name, f"the system library {file} is missing: install it{how}", 1))
    except BrokenPipeError:
        # The reader has what it wanted. Python would complain again at exit.
        sys.stdout = open(os.devnull, "w")
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno in IMPOSSIBLE:
            sys.exit(_told(name, f"{str(error.filename or 'a path')[:120]}: {error.strerror}", 2))
        if error.errno not in DISK:
            raise
        full = error.errno in (errno.EDQUOT, errno.ENOSPC)
        remedy = "; make room, then rerun" if full else ""
        sys.exit(_told(name, f"{error.filename or 'writing'}: {error.strerror}{remedy}", 1))
    except (AssertionError, RuntimeError) as error:
        if _is_of_backend(error):
            sys.exit(_told(name, _no_backend(), 2))
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        reason = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        sys.exit(_told(name, f"the device's memory is full ({reason}): {FREE_MEMORY}", 1))
    except KeyboardInterrupt:
        sys.exit(_told(name, "interrupted", 130))
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_of_backend(error: Exception) -> bool:
    """Whether JAX found no device; for some platforms it only asserts that there is one."""
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    asserted = isinstance(error, AssertionError) and place.endswith("xla_bridge.py")
    return asserted or str(error).startswith("Unable to initialize backend")


def _no_backend() -> str:
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms is None:
        return "JAX finds no device: see https://docs.jax.dev/en/latest/installation.html"
    return (
        f"JAX_PLATFORMS={platforms}: JAX finds no such device here; unset it, or set it to cpu, or "
        "install JAX for the device, as in pip install 'instantid-jax[cuda]'"
    )


def _check_working_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise InputError("the working folder was deleted: change to another one") from error


@contextlib.contextmanager
def _resending_lost_interrupts() -> Iterator[None]:
    """Sends a signal again if its exception was lost.

    Python prints and drops exceptions that signals raise in callbacks, such as the one by which JAX
    collects garbage.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        number = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}.get(
            unraisable.exc_type
        )
        if number is None:
            before(unraisable)
        else:
            threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), number)).start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def run_command(
    name: str,
    commands: Mapping[str, Callable[..., None]],
    args: Sequence[str] | None,
    description: str,
) -> None:
    """Calls the function of the subcommand that `args` (None: the command line's) name."""
    import tyro

    from instantid_jax.cli.repeated import check_repeated

    given = sys.argv[1:] if args is None else args
    if given and given[0] in commands:
        check_repeated(commands[given[0]], given[1:])
    tyro.extras.subcommand_cli_from_dict(
        dict(commands),
        args=args,
        prog=name,
        description=description,
        config=parsing(),
    )


def parsing() -> tuple[Any, ...]:
    """How the flags of all programs are parsed, as tyro's `config`."""
    import tyro

    return (
        tyro.conf.DisallowNone,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.HelptextFromCommentsOff,
        tyro.conf.OmitArgPrefixes,
    )


def printable(text: str) -> str:
    """A text on one line: names and contents of files may have line breaks and worse."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _told(name: str, message: str, status: int) -> int:
    print(f"{name}: error: {printable(message)}", file=sys.stderr)
    return status
