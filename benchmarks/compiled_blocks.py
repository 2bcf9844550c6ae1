"""`python -m benchmarks.compiled_blocks`: compiles the UNet's kinds of layers for a TPU v5e.

Uses the shapes of a 1024-pixel image with guidance, in bfloat16. It takes under a minute to show
whether a change costs memory or operations; compiling the whole step takes many.
"""

import functools
import json
import os
from typing import Any

# Ahead-of-time compilation needs no accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from benchmarks.absent_devices import absent_devices
from benchmarks.unet_parts import UNetPart
from instantid_jax.params import Network
from instantid_jax.sharding import replicated
from train.flops import count_flops, uncounted_flops

KINDS = (
    UNetPart(path="down_blocks.0.resnets.0", channels=320, scale=1),
    UNetPart(path="down_blocks.0.downsamplers.0", channels=320, scale=1),
    UNetPart(path="down_blocks.1.attentions.0", channels=640, scale=2),
    UNetPart(path="mid_block.attentions.0", channels=1280, scale=4),
    UNetPart(path="up_blocks.1.upsamplers.0", channels=640, scale=2),
)
# Accepts the first suitable windows; they affect neither memory nor operations.
FIRST_WINDOWS = {"xla_jf_convolution_performance_target": 0.9}
ROWS, SIDE, DTYPE = 2, 128, jnp.dtype("bfloat16")


def main() -> None:
    """Prints a JSON object by block."""
    device = absent_devices("v5e:1x1")[0]
    print(json.dumps({part.path: compile_block(part, device) for part in KINDS}))


def compile_block(part: UNetPart, device: jax.Device) -> dict[str, Any]:
    """Bytes of temporaries, and FLOPs as compiled and as counted by hand."""
    net = part.network
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=[device])
    shapes = (_params(net), *part.inputs(net, ROWS, SIDE, DTYPE))
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)), shapes
    )
    with jax.set_mesh(mesh):
        run = functools.partial(part.run, net)
        traced = jax.jit(run, compiler_options=FIRST_WINDOWS).trace(*placed)
        compiled = traced.lower().compile()
    return {
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "flops": int(compiled.cost_analysis()["flops"]) + uncounted_flops(traced.jaxpr.jaxpr),
        "flops_by_hand": count_flops(traced.jaxpr.jaxpr),
    }


def _params(net: Network) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(s.shape, DTYPE) for name, s in net.shapes.items()}


if __name__ == "__main__":
    main()
