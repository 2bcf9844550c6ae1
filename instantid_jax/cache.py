"""The package's folder among the user's caches, and the compiled programs kept there."""

import os
from pathlib import Path

import jax


def cache_folder() -> Path:
    """XDG_CACHE_HOME or ~/.cache, and this package's name."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "instantid_jax"


def keep_compiled_programs() -> None:
    """Lets JAX keep compiled programs on disk, so that later processes start at once.

    Leaves alone a cache that is set up already; JAX_ENABLE_COMPILATION_CACHE=false switches it off.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
        # The small programs around a step add up to seconds; JAX keeps only those above one.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
