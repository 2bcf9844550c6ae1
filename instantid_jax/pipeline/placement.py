"""Device placement and memory layout of the sampling weights."""

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, Sharding

from instantid_jax.params import Params
from instantid_jax.sharding import replicated

# cuDNN reads convolution kernels output channels first. XLA would transpose JAX's order, [height,
# width, in, out], in every call: 82 kernels and 2 % of a step on an H200.
GPU_CONVOLUTION = Layout((3, 0, 1, 2))


def place(params: Params, mesh: Mesh | None) -> Params:
    """Puts weights on every device of a mesh, in the layout that its programs read fastest.

    jit follows the layouts of its arguments, so programs need no change.

    Args:
      params: weights on one device; donated if there is a mesh.
      mesh: the mesh to copy them to; None keeps their device and does not donate them.
    """
    formats = {}
    for name, value in params.items():
        sharding = value.sharding if mesh is None else replicated(mesh)
        (device, *_) = sharding.device_set
        formats[name] = weight_format(value.ndim, device.platform, sharding)
    return jax.device_put(params, formats, donate=mesh is not None)


def sharding_of(params: Params) -> Sharding:
    """For arrays that enter a program along with weights: whole, on each of their devices."""
    sharding = next(iter(params.values())).sharding
    return replicated(sharding.mesh) if isinstance(sharding, NamedSharding) else sharding


def weight_format(axes: int, platform: str, sharding: Sharding) -> Format | Sharding:
    """The format of a weight by its number of axes; kernels of convolutions have four."""
    return Format(GPU_CONVOLUTION, sharding) if platform == "gpu" and axes == 4 else sharding
