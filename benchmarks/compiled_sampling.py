"""A denoising step compiled ahead of time from shapes, and what can be read off the program."""

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from benchmarks.hlo_collectives import collectives
from instantid_jax.components import network
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.params import Network
from instantid_jax.pipeline import programs
from instantid_jax.sharding import replicated
from instantid_jax.weights.sdxl_base import SCHEDULER, SETTINGS
from train.flops import count_flops, kernel_flops
from train.model import identitynet_settings

DTYPE = jnp.bfloat16
TOKENS = 77


def sdxl_networks() -> programs.Networks:
    """InstantID on SDXL base, at full size."""
    settings = SETTINGS | {"image_proj": {}}
    networks = {name: network(name, each) for name, each in settings.items()}
    identitynet = network("controlnet", identitynet_settings(SETTINGS["unet"]))
    return programs.Networks(controlnets=(identitynet,), **networks)


def step_arguments(
    networks: programs.Networks, batch: int, size: tuple[int, int], guidance: bool
) -> tuple[Any, ...]:
    """Shapes of what `programs.denoise` takes, its static arguments first.

    Args:
      size: (height, width) of the pictures.
    """
    sampler = make_sampler(ScheduleConfig.from_dict(SCHEDULER), None, 30)
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    config = networks.unet.config
    params = {
        "unet": _params(networks.unet),
        "controlnets": tuple(_params(each) for each in networks.controlnets),
    }
    prompts = programs.Prompts(
        jax.ShapeDtypeStruct((batch, TOKENS, config.cross_attention_dim), DTYPE),
        jax.ShapeDtypeStruct((batch, networks.text_encoder_2.config.projection_dim), DTYPE),
    )
    id_tokens = (networks.image_proj.config.num_queries, networks.image_proj.config.output_dim)
    rows = 2 * batch if guidance else batch
    conditions = jax.eval_shape(
        functools.partial(programs.prepare, networks, 1),
        params,
        prompts,
        prompts if guidance else None,
        shape((rows, 6)),
        jax.ShapeDtypeStruct((batch, *id_tokens), DTYPE),
        jax.ShapeDtypeStruct((1, *id_tokens), DTYPE),
        shape(()),
        tuple(jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8) for _ in networks.controlnets),
    )
    latents = shape((batch, size[0] // 8, size[1] // 8, config.in_channels))
    state = jax.eval_shape(sampler.rule.init, latents)
    residuals = networks.controlnets[0].config.residuals
    return (
        networks,
        sampler.rule,
        guidance,
        params,
        state,
        conditions,
        {name: shape(()) for name in sampler.row(0)},
        shape(()),
        shape(()),
        shape((len(networks.controlnets), residuals, rows)),
        latents if sampler.stochastic else None,
    )


def compile_step(
    networks: programs.Networks,
    device: jax.Device,
    batch: int,
    size: tuple[int, int],
    guidance: bool,
) -> dict[str, Any]:
    """Compiles a denoising step for a device that need not be there.

    Returns:
      `hbm_bytes`: arguments, outputs and temporaries less what is aliased, and the weights that
      sampling needs beside the step's; `temp_bytes`; `flops`, XLA's count and the kernels', which
      it leaves out; `flops_by_hand`, of matrix products and convolutions by their shapes;
      `collective_bytes`; `compile_seconds`.
    """
    arguments = step_arguments(networks, batch, size, guidance)
    static, shapes = arguments[:3], arguments[3:]
    by_hand = step_flops(networks, batch, size, guidance)
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=[device])
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)), shapes
    )
    # Weights that `prepare` alone uses are resident, too.
    step = jax.jit(
        programs.denoise.__wrapped__,
        static_argnames=("networks", "rule", "guidance"),
        donate_argnames=("state",),
        keep_unused=True,
    )
    with jax.set_mesh(mesh):
        traced = step.trace(*static, *placed)
        start = time.perf_counter()
        compiled = traced.lower().compile()
        seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    others = (networks.vae, networks.image_proj, networks.text_encoder, networks.text_encoder_2)
    return {
        "hbm_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
        + sum(_bytes(_params(each)) for each in others),
        "temp_bytes": memory.temp_size_in_bytes,
        "flops": int(compiled.cost_analysis()["flops"]) + kernel_flops(traced.jaxpr.jaxpr),
        "flops_by_hand": by_hand,
        "collective_bytes": sum(c["bytes"] for c in collectives(compiled.as_text()).values()),
        "compile_seconds": round(seconds, 1),
    }


def step_flops(
    networks: programs.Networks, batch: int, size: tuple[int, int], guidance: bool
) -> int:
    """Operations of the matrix products and convolutions of one step, counted from their shapes."""
    arguments = step_arguments(networks, batch, size, guidance)
    # Without its jit, which would keep what is traced here for other platforms.
    step = functools.partial(programs.denoise.__wrapped__, *arguments[:3])
    return count_flops(jax.make_jaxpr(step)(*arguments[3:]).jaxpr)


def _params(net: Network) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(s.shape, DTYPE) for name, s in net.shapes.items()}


def _bytes(shapes: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
