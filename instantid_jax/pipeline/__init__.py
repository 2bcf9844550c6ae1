"""From a face and a prompt to a picture."""

from instantid_jax.pipeline.pipeline import InstantIDPipeline, Result

__all__ = ["InstantIDPipeline", "Result"]
