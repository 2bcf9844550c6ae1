"""From a face and a prompt to an image."""

from instantid_jax.pipeline.pipeline import InstantIDPipeline, Result

__all__ = ["InstantIDPipeline", "Result"]
