"""InstantID in JAX and Flax: put a person, given by one photo, into any SDXL image."""

import importlib

_EXPORTS = {
    "Face": "instantid_jax.face.face",
    "InputError": "instantid_jax.errors",
    "InstantIDPipeline": "instantid_jax.pipeline",
    "Request": "instantid_jax.request",
    "sampling_mesh": "instantid_jax.sharding",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> object:
    # Imported when asked for, so that `import instantid_jax` costs next to nothing.
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
