"""Folders of runs that trained InstantID on a small base model, written without training."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.components import component_shapes, network
from instantid_jax.json_files import write_json
from instantid_jax.models.resampler import ResamplerConfig
from instantid_jax.params import join_parts
from instantid_jax.runs.contents import Meta
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.trained import FROZEN
from tests.convert.published import TINY_RESAMPLER, UNET
from train.runs.saving import Saver

META = Meta(fingerprint={"config": "small"}, seed=0, position=0)


class State(NamedTuple):
    """Shaped as the training's."""

    step: jax.Array
    params: dict[str, jax.Array]
    opt_state: tuple[dict[str, jax.Array]]
    ema: dict[str, jax.Array]


def draw(shapes: Mapping[str, jax.ShapeDtypeStruct], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(leaf.shape, np.float32) for name, leaf in shapes.items()}


def write_run(
    path: Path,
    *,
    unet: Mapping = UNET,
    resampler: Mapping = TINY_RESAMPLER,
    steps: tuple[int, ...] = (3,),
    average: bool = True,
    more: Mapping[str, np.ndarray] | None = None,
    frozen: Mapping | None = None,
) -> dict[tuple[int, bool], dict[str, np.ndarray]]:
    """Writes networks.json and checkpoints; returns (step, raw) to the weights saved.

    Args:
      average: whether the run keeps one.
      more: parameters to add or replace.
      frozen: that of `frozen_source`; the run then saves none of its parts.
    """
    config = ResamplerConfig(**{"output_dim": unet["cross_attention_dim"], **resampler})
    settings = {
        "image_proj": vars(config),
        "controlnet": {**unet, "_class_name": "ControlNetModel"},
    }
    run = RunFolder(path)
    run.path.mkdir(parents=True)
    write_json(run.networks, settings | ({} if frozen is None else {FROZEN: frozen}))
    parts = {name: network(name, each).shapes for name, each in settings.items()}
    parts["ip_adapter"] = component_shapes("ip_adapter", network("unet", unet))
    for part in () if frozen is None else frozen["parts"]:
        del parts[part]
    shapes = join_parts(parts)
    saved = {}
    with Saver(run, start=0, every=1, keep=len(steps)) as saver:
        for step in steps:
            params = {**draw(shapes, step), **(more or {})}
            saved[step, True] = params
            ema = draw(shapes, 1000 + step) if average else {}
            if average:
                saved[step, False] = ema
            # The optimizer's moments, which must not be read.
            moments = ({"controlnet.conv_in.kernel": jnp.ones((2, 2))},)
            state = State(jnp.asarray(step), params, moments, ema)
            saver.save(step, jax.tree.map(jnp.asarray, state), META)
    return saved


def part_of(weights: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """A part's own parameters, under its own names."""
    return {
        name.removeprefix(f"{part}."): value
        for name, value in weights.items()
        if name.startswith(f"{part}.")
    }


def assert_same_bits(got: Mapping, want: Mapping) -> None:
    assert set(got) == set(want)
    for name, value in want.items():
        other = np.asarray(got[name])
        assert (other.dtype, other.shape) == (value.dtype, value.shape), name
        assert other.tobytes() == np.asarray(value).tobytes(), name
