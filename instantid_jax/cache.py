"""The user's cache folder, and the persistent compilation cache in it."""

import logging
import os
from pathlib import Path

import jax

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`instantid_jax` in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "instantid_jax"


def keep_compiled_programs() -> None:
    """Enables JAX's persistent compilation cache.

    Keeps a cache that is already configured; JAX_ENABLE_COMPILATION_CACHE=false disables it.
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
    # By default JAX skips programs that compile in under a second; together they take longer.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
