"""FLOP count of a training step, and model FLOP utilization."""

import functools
import math
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import Mesh

from train.compiled_step import gradients, step_shapes
from train.config import TrainConfig
from train.data.buckets import Size
from train.networks import Networks
from train.step import StepConfig, train_step

# Dense bfloat16 FLOP/s per JAX device, by `Device.device_kind`, from the vendors' data sheets.
PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L40S": 362e12,
}
# cuDNN attention primitives, and the number of matrix products in each.
FUSED_ATTENTION = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 4}
# A Pallas kernel runs once per grid point. Splash attention's backward kernels recompute products:
# one of dkv's four and two of dq's three.
KERNEL = "pallas_call"
COMPUTED_FIRST = {"splash_mha_dkv": 3 / 4, "splash_mha_dq": 1 / 3}


class StepFlops:
    """Computes the model FLOP utilization of steps."""

    def __init__(self, config: TrainConfig, networks: Networks, mesh: Mesh):
        peak = PEAK.get(mesh.devices.flat[0].device_kind)
        self._peak = None if peak is None else peak * mesh.size
        if peak is not None:
            # Traced once, which takes a minute at full size; other buckets scale with their pixels.
            self._size = config.data.buckets[0]
            self._operations = step_flops(config, networks, mesh, self._size)

    def utilization(self, size: Size, seconds: float) -> float | None:
        """Model FLOP utilization of a step (Chowdhery et al. 2022, PaLM, appendix B).

        Args:
          size: (height, width) of the images.
          seconds: duration of the step.
        Returns:
          None if the devices' peak is unknown.
        """
        if self._peak is None:
            return None
        operations = self._operations * math.prod(size) / math.prod(self._size)
        return operations / seconds / self._peak


def step_flops(config: TrainConfig, networks: Networks, mesh: Mesh, size: Size) -> int:
    """FLOPs of the matrix products and convolutions of one step on the global batch.

    Excludes what rematerialization recomputes, as model FLOP utilization requires.

    Args:
      size: (height, width) of the images.
    """
    once = StepConfig(dtype=config.step.dtype, remat="none", micro_batches=1)
    step = functools.partial(train_step, gradients(config, networks, once), config.optimizer, once)
    traced = jax.make_jaxpr(step)(*step_shapes(config, networks, mesh, size))
    return count_flops(traced.jaxpr)


def count_flops(jaxpr: Jaxpr) -> int:
    """FLOPs of a jaxpr's matrix products and convolutions; a multiply-add counts as two."""
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        depth = math.prod(left[axis] for axis in contracted)
        return 2 * depth * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        depth = math.prod(kernel) // outputs
        return 2 * depth * math.prod(equation.outvars[0].aval.shape)
    if name in FUSED_ATTENTION:
        batch, queries, heads, width = equation.invars[0].aval.shape
        keys = equation.invars[1].aval.shape[1]
        return FUSED_ATTENTION[name] * 2 * batch * heads * queries * keys * width
    inside = sum(count_flops(inner) for inner in inner_programs(params))
    return round(inside * _repeats(name, params) * _computed_first(params))


def uncounted_flops(jaxpr: Jaxpr) -> int:
    """FLOPs that XLA's count misses: Pallas kernels, and all but the first iteration of loops."""
    return count_flops(jaxpr) - _counted_flops(jaxpr)


def _counted_flops(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name != KERNEL:
            inside = inner_programs(equation.params)
            total += sum(map(_counted_flops, inside)) if inside else _equation_flops(equation)
    return total


def _computed_first(params: dict[str, Any]) -> float:
    """The share of an operation's products that are not recomputations."""
    kernel = str(params.get("name"))
    return next((s for name, s in COMPUTED_FIRST.items() if kernel.startswith(name)), 1)


def _repeats(name: str, params: dict[str, Any]) -> int:
    """How often the jaxprs inside an operation run."""
    if name == KERNEL:
        return math.prod(params["grid_mapping"].grid)
    return params["length"] if name == "scan" else 1


def inner_programs(params: dict[str, Any]) -> list[Jaxpr]:
    """The jaxprs inside an operation, from its parameters."""
    found = []
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr):
                found.append(each.jaxpr)
            elif isinstance(each, Jaxpr):
                found.append(each)
    return found
