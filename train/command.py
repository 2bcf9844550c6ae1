"""The command line of the programs that train: a configuration's file and its options."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from instantid_jax.cli.entry import entry
from instantid_jax.errors import InputError

if TYPE_CHECKING:
    from train.config import TrainConfig


def run_program(
    module: str,
    usage: str,
    adapt: Callable[["TrainConfig", Sequence[str]], "TrainConfig"],
    args: Sequence[str] | None,
) -> None:
    """Runs a program. Exit status: 2 after bad input, 75 after SIGTERM.

    Args:
      module: the program's, as `python -m` takes it.
      usage: its help without a configuration.
      adapt: makes the defaults of the options from the file's configuration and the options given.
      args: None takes the process's.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0].startswith("-"):
        print(usage)
        sys.exit(0 if args[:1] in (["--help"], ["-h"]) else 2)
    with entry(module.rpartition(".")[2]):
        import logging

        import tyro

        from instantid_jax.cache import keep_compiled_programs
        from instantid_jax.cli.repeated import check_repeated
        from instantid_jax.paths import is_address, local_path
        from train.config import TrainConfig
        from train.distributed import ProcessConfig, join
        from train.loop import train
        from train.options import HELP, with_named_settings
        from train.start import StartConfig

        logging.getLogger("train").setLevel(logging.INFO)
        made = adapt(load_config(local_path(args[0])), args[1:])
        default = with_named_settings(made, args[1:])

        def run(
            workdir: str,
            config: Annotated[TrainConfig, tyro.conf.arg(name="")] = default,
            start: Annotated[StartConfig, tyro.conf.arg(name="")] = StartConfig(),  # noqa: B008
            processes: Annotated[ProcessConfig, tyro.conf.arg(name="")] = ProcessConfig(),  # noqa: B008
            profile: int = 0,
        ) -> int:
            """Starts or resumes a run.

            Args:
              workdir: the run's folder.
              profile: number of steps to trace with JAX's profiler.
            """
            if is_address(workdir):
                raise InputError(
                    f"--workdir {workdir}: a run's folder is on this machine; to have its "
                    f"checkpoints there too, pass --checkpoints.folder {workdir}"
                )
            folder = local_path(workdir)
            join(processes)
            keep_compiled_programs()
            return train(config, folder, start, profile)

        check_repeated(run, args[1:])
        status = tyro.cli(
            run,
            args=args[1:],
            prog=f"python -m {module} {args[0]}",
            description=f"Starts or resumes a run. {HELP}",
            config=(tyro.conf.AvoidSubcommands,),
        )
    sys.exit(status)


def load_config(path: Path) -> "TrainConfig":
    """Calls `get_config` of a Python file.

    Raises:
      InputError: if the file or the function is missing or fails, or does not return a TrainConfig.
    """
    from train.config import TrainConfig

    if not path.is_file():
        what = "is not a file" if path.exists() else "no such file"
        raise InputError(f"{path}: {what}; give a Python file that defines get_config()")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file: give one that defines get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: invalid Python ({error.msg})") from error
    except (AttributeError, ImportError, NameError) as error:
        raise InputError(f"{path}: {error}; see configs/debug.py for an example") from error
    if not callable(getattr(module, "get_config", None)):
        raise InputError(f"{path} has no get_config(): see configs/debug.py for an example")
    try:
        config = module.get_config()
    except (AttributeError, ImportError, NameError, TypeError) as error:
        raise InputError(f"{path}: {error}; train/config.py defines the settings") from error
    if not isinstance(config, TrainConfig):
        raise InputError(f"{path}: get_config() must return a train.config.TrainConfig")
    return config
