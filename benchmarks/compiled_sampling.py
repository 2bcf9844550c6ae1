"""Compiles a denoising step ahead of time from shapes, and analyzes the program."""

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.cases import TOKENS
from benchmarks.hlo_collectives import collectives
from benchmarks.sizes import FULL
from instantid_jax.compilation import compiler_options
from instantid_jax.components import network
from instantid_jax.diffusion.guidance import Guidance
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.models.controlnet import settings_like_unet
from instantid_jax.models.instantid import Masks, Texts
from instantid_jax.params import Network
from instantid_jax.pipeline import programs
from instantid_jax.pipeline.conditions.masks import resolve_masks
from instantid_jax.pipeline.placement import weight_format
from instantid_jax.pipeline.step import StepInputs, StepProgram, denoise
from instantid_jax.sharding import replicated, sampling_mesh
from instantid_jax.weights.sdxl_base import SCHEDULER
from train.flops import count_flops, uncounted_flops

DTYPE = jnp.bfloat16


def sdxl_networks() -> programs.Networks:
    """InstantID on SDXL base, at full size."""
    networks = {name: network(name, each) for name, each in FULL.items()}
    identitynet = network("controlnet", settings_like_unet(FULL["unet"]))
    return programs.Networks(controlnets=(identitynet,), **networks)


def step_arguments(
    networks: programs.Networks,
    batch: int,
    size: tuple[int, int],
    guidance: bool,
    dtype: jnp.dtype = DTYPE,
) -> tuple[Any, ...]:
    """Shapes of the arguments of `step.denoise`, preceded by its static argument.

    Args:
      size: (height, width) of the images.
      dtype: of weights and computation.
    """
    sampler = make_sampler(ScheduleConfig.from_dict(SCHEDULER), None, 30)
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    config = networks.unet.config
    params = {
        "unet": _params(networks.unet, dtype),
        "controlnets": tuple(_params(each, dtype) for each in networks.controlnets),
    }
    texts = Texts(
        jax.ShapeDtypeStruct((batch, TOKENS, config.cross_attention_dim), dtype),
        jax.ShapeDtypeStruct((batch, networks.text_encoder_2.config.projection_dim), dtype),
    )
    tokens = (networks.image_proj.config.num_queries, networks.image_proj.config.output_dim)
    rows = 2 * batch if guidance else batch
    conditions = jax.eval_shape(
        functools.partial(programs.prepare, networks, 1),
        params,
        texts,
        texts if guidance else None,
        shape((rows, 6)),
        (jax.ShapeDtypeStruct((batch, *tokens), dtype),) * 2,
        shape((batch, sum(config.transformers.values()))),
        tuple(jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8) for _ in networks.controlnets),
        _masks(batch, size, len(networks.controlnets), len(config.block_out_channels)),
    )
    latents = shape((batch, size[0] // 8, size[1] // 8, config.in_channels))
    state = jax.eval_shape(sampler.rule.init, latents)
    inputs = StepInputs(
        row={name: shape((batch,)) for name in sampler.row(0)},
        timesteps=shape((rows,)),
        guidance=Guidance(*[shape((batch,))] * len(Guidance._fields)),
        residual_scales=shape(
            (len(networks.controlnets), networks.controlnets[0].config.residuals, rows)
        ),
        adapter_scales=shape((rows,)),
        noise=latents if sampler.rule.stochastic else None,
    )
    program = StepProgram(networks.unet, networks.controlnets, sampler.rule, guidance)
    return program, params, state, conditions, inputs


def _masks(batch: int, size: tuple[int, int], controlnets: int, levels: int) -> Masks[Any]:
    """Shapes of the masks that `programs.prepare` takes."""
    return jax.eval_shape(
        lambda: resolve_masks([(None,) * controlnets] * batch, [None] * batch, size, levels)
    )


def compile_step(
    networks: programs.Networks,
    mesh: Mesh,
    batch: int,
    size: tuple[int, int],
    guidance: bool,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Compiles a denoising step for a sampling mesh of possibly absent devices.

    Args:
      options: compiler options; by default those of sampling.
    Returns:
      Per device: `hbm_bytes` (arguments, outputs and temporaries, minus aliased bytes, plus the
      weights that sampling needs outside the step); `temp_bytes`; `flops` (XLA's count plus what it
      misses in kernels and loops; None if XLA has no count, as on GPUs); `flops_by_hand` (matrix
      products and convolutions by shape); `collective_bytes`. The compilation's `compile_seconds`,
      and its `compile_cpu_seconds` over all cores.
    """
    by_hand = step_flops(networks, batch, size, guidance)
    arguments = step_arguments(networks, batch, size, guidance)
    if options is None:
        options = compiler_options(mesh.devices.flat[0].platform)
    traced = alone = _traced(arguments, mesh, options)
    if mesh.size > 1:
        # On several devices, the count inside `shard_map` would be that of one of them.
        alone = _traced(arguments, sampling_mesh(devices=list(mesh.devices.flat)), options)
    uncounted = uncounted_flops(alone.jaxpr.jaxpr)
    lowered = traced.lower()
    start, cpu = time.perf_counter(), time.process_time()
    with jax.set_mesh(mesh):
        compiled = lowered.compile()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    others = (networks.vae, networks.image_proj, networks.text_encoder, networks.text_encoder_2)
    return {
        "hbm_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
        + sum(parameter_bytes(each, DTYPE) for each in others),
        "temp_bytes": memory.temp_size_in_bytes,
        "flops": None if cost is None else int(cost["flops"]) + uncounted // mesh.size,
        "flops_by_hand": by_hand // mesh.size,
        "collective_bytes": sum(c["bytes"] for c in collectives(compiled.as_text()).values()),
        "compile_seconds": round(seconds, 1),
        "compile_cpu_seconds": round(cpu, 1),
    }


def _traced(arguments: tuple[Any, ...], mesh: Mesh, options: dict[str, Any]) -> jax.stages.Traced:
    """Traces the step on a mesh, with replicated weights and sharded latents."""
    program, params, state, *others = arguments
    everywhere, platform = replicated(mesh), mesh.devices.flat[0].platform
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=weight_format(leaf.ndim, platform, everywhere)
        ),
        params,
    )
    others = _placed(others, everywhere)
    state = _placed(state, NamedSharding(mesh, PartitionSpec("data", "rows")))
    # keep_unused counts weights that only `prepare` uses; they are resident as well.
    step = jax.jit(
        denoise.__wrapped__,
        static_argnames=("program",),
        donate_argnames=("state",),
        keep_unused=True,
        compiler_options=options,
    )
    with jax.set_mesh(mesh):
        return step.trace(program, params, state, *others)


def _placed(shapes: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )


def step_flops(
    networks: programs.Networks, batch: int, size: tuple[int, int], guidance: bool
) -> int:
    """FLOPs of one step's matrix products and convolutions, from their shapes."""
    arguments = step_arguments(networks, batch, size, guidance)
    # Bypasses jit, whose cache would reuse this trace on other platforms.
    step = functools.partial(denoise.__wrapped__, arguments[0])
    return count_flops(jax.make_jaxpr(step)(*arguments[1:]).jaxpr)


def _params(net: Network, dtype: jnp.dtype) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(s.shape, dtype) for name, s in net.shapes.items()}


def parameter_bytes(net: Network, dtype: jnp.dtype) -> int:
    """The bytes of a network's weights in a dtype."""
    return sum(math.prod(each.shape) * jnp.dtype(dtype).itemsize for each in net.shapes.values())
