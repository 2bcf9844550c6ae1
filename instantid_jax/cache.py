"""The package's folder among the user's caches, and the compiled programs kept there."""

import logging
import os
from pathlib import Path

import jax

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """XDG_CACHE_HOME or ~/.cache, and this package's name."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "instantid_jax"


def keep_compiled_programs() -> None:
    """Lets JAX keep compiled programs on disk, so that later processes start at once.

    Leaves alone a cache that is set up already; JAX_ENABLE_COMPILATION_CACHE=false switches it off.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    folder = cache_folder() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning(
            "compiled programs are not kept, because %s cannot be written (%s): "
            "name another folder with XDG_CACHE_HOME",
            folder,
            error.strerror,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX keeps only what took a second to compile; together the others take longer than that.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
