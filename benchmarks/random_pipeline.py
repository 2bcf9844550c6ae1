"""A pipeline with random weights generated on the device: no files, no transfer."""

import functools
import math
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from instantid_jax import InstantIDPipeline
from instantid_jax.cache import keep_compiled_programs
from instantid_jax.components import Component, ModelSource, component_shapes, network
from instantid_jax.models.controlnet import settings_like_unet
from instantid_jax.params import Params
from instantid_jax.weights.sdxl_base import SCHEDULER
from miniature.base.tokenizer import write_tokenizer


def random_pipeline(
    settings: Mapping[str, Mapping[str, Any]],
    dtype: jnp.dtype | str | None,
    vae_dtype: jnp.dtype | str | None,
) -> InstantIDPipeline:
    """InstantID with networks of these sizes; its images are noise.

    Args:
      settings: `sizes.FULL` or `sizes.SMALL`.
      dtype, vae_dtype: as in `InstantIDPipeline.load`.
    """
    # `InstantIDPipeline.load` does this too.
    keep_compiled_programs()
    networks = {name: network(name, each) for name, each in settings.items()}
    networks["ip_adapter"] = networks["unet"]
    networks["controlnet"] = network("controlnet", settings_like_unet(settings["unet"]))
    components = {
        name: Component(
            network=net,
            settings={},
            load=functools.partial(draw_all, component_shapes(name, net)),
            source="random numbers",
        )
        for name, net in networks.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        # Its tokens are valid for SDXL's networks, whose random weights ignore their meaning.
        tokenizer = Path(folder) / "tokenizer"
        write_tokenizer(tokenizer)
        model = ModelSource(components, SCHEDULER, (tokenizer, tokenizer))
        return InstantIDPipeline(model, dtype=dtype, vae_dtype=vae_dtype)


def draw_all(
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    dtype: jnp.dtype,
    chosen: Collection[str] | None = None,
) -> Params:
    """Random parameters of these shapes, generated on the device; `chosen` names those wanted.

    All are slices of one random array at different offsets: on an H200, a generator takes 0.4 to
    0.7 s to compile per shape, a slice 0.1 s.
    """
    largest = max(math.prod(spec.shape) for spec in shapes.values())
    numbers = jax.random.normal(jax.random.key(0), (largest + len(shapes),), dtype)
    return {
        name: _cut(numbers, i, name.rpartition(".")[2], spec.shape)
        for i, (name, spec) in enumerate(shapes.items())
        if chosen is None or name in chosen
    }


@functools.partial(jax.jit, static_argnames=("leaf", "shape"))
def _cut(numbers: jax.Array, start: int, leaf: str, shape: tuple[int, ...]) -> jax.Array:
    """A parameter of unit gain, so that values stay finite through all layers."""
    if leaf in ("bias", "scale"):
        return jnp.full(shape, leaf == "scale", numbers.dtype)
    inputs = math.prod(shape[:-1]) if leaf == "kernel" else shape[-1]
    cut = jax.lax.dynamic_slice(numbers, (start,), (math.prod(shape),)).reshape(shape)
    return cut / jnp.sqrt(inputs).astype(numbers.dtype)
