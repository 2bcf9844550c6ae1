"""The pipeline that is loaded. There is one at a time: two of SDXL's size rarely fit."""

import dataclasses
import gc

from instantid_jax.pipeline import InstantIDPipeline
from instantid_jax.pipeline.sources import Sources


@dataclasses.dataclass(frozen=True)
class Weights:
    """Which weights to load, and how; the arguments of `InstantIDPipeline.load`."""

    sources: Sources
    dtype: str | None = None
    vae_dtype: str | None = None
    offload: bool = False

    @property
    def base(self) -> "Weights":
        """The same without LoRAs and textual inversions, which change without loading."""
        sources = dataclasses.replace(self.sources, loras=(), embeddings=())
        return dataclasses.replace(self, sources=sources)


# Nodes keep no state, and ComfyUI keeps what they return: that is a `Weights`, so that the arrays
# are freed when others are loaded.
_loaded: dict[Weights, InstantIDPipeline] = {}


def pipeline_of(weights: Weights) -> InstantIDPipeline:
    """The pipeline with these weights: the one that is loaded, if its base is the same.

    Raises:
      InputError: if something is missing, damaged, of another kind or does not fit.
    """
    if weights.base not in _loaded:
        unload()
        sources = {f.name: getattr(weights.sources, f.name) for f in dataclasses.fields(Sources)}
        _loaded[weights.base] = InstantIDPipeline.load(
            **sources, dtype=weights.dtype, vae_dtype=weights.vae_dtype, offload=weights.offload
        )
    pipe = _loaded[weights.base]
    if pipe.sources is not None and pipe.sources.loras != weights.sources.loras:
        pipe.set_loras(weights.sources.loras)
    if pipe.sources is not None and pipe.sources.embeddings != weights.sources.embeddings:
        pipe.set_embeddings(weights.sources.embeddings)
    return pipe


def unload() -> None:
    """Frees the pipeline's arrays."""
    _loaded.clear()
    gc.collect()
