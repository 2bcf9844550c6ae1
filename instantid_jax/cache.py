"""The user's cache folder, and the persistent compilation cache in it."""

import logging
import os
import tempfile
from pathlib import Path

import jax

from instantid_jax.errors import InputError

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`instantid_jax` in XDG_CACHE_HOME, which counts if it is absolute, or ~/.cache.

    Raises:
      InputError: if neither is known.
    """
    try:
        named = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:  # Neither HOME nor an entry of the user.
        raise InputError("no home folder is known: set HOME or XDG_CACHE_HOME") from error
    return folder / "instantid_jax"


def keep_compiled_programs() -> None:
    """Enables JAX's persistent compilation cache.

    Keeps a cache that is already configured; JAX_ENABLE_COMPILATION_CACHE=false disables it.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    try:
        folder = cache_folder() / "xla"
        folder.mkdir(parents=True, exist_ok=True)
        # Otherwise JAX warns at every program.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (InputError, OSError) as error:
        logger.warning(
            "compiled programs are not kept (%s): name a folder with XDG_CACHE_HOME", error
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default JAX skips programs that compile in under a second; together they take longer.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
