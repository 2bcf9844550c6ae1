"""From PyTorch's state dictionaries to our parameters."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
from flax import nnx

from instantid_jax.params import Network, Params
from instantid_jax.weights.names import adapter_to_jax, text_encoder_names, to_jax
from instantid_jax.weights.tensors import LazyTensor, Tensors


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's own bytes; bfloat16 too, which torch does not hand to numpy."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def as_tensors(state: Mapping[str, torch.Tensor]) -> Tensors:
    """A state dictionary as if it lay in a file."""

    def lazy(tensor):
        array = as_numpy(tensor)
        return LazyTensor(array.shape, array.dtype, lambda: array)

    return {name: lazy(tensor) for name, tensor in state.items()}


def read(tensors: Tensors) -> Params:
    return {name: jnp.asarray(tensor.read()) for name, tensor in tensors.items()}


def to_params(network: Network, state: Mapping[str, torch.Tensor]) -> Params:
    """Parameters of one network (UNets: `unet_params`), from a torch module's state."""
    tensors = as_tensors(state)
    if network.module.__name__ == "CLIPTextModel":
        tensors = text_encoder_names(tensors)
    return read(to_jax(tensors, network.shapes, "the torch model"))


def unet_params(
    network: Network, state: Mapping[str, torch.Tensor], adapter: Mapping[str, torch.Tensor]
) -> Params:
    """The UNet's own parameters and, from the adapter's numbers, those of its ID branches."""
    ours = network.shapes
    id_shapes = {n: s for n, s in ours.items() if n.endswith(("to_k_ip.kernel", "to_v_ip.kernel"))}
    unet_shapes = {name: shape for name, shape in ours.items() if name not in id_shapes}
    return {
        **read(to_jax(as_tensors(state), unet_shapes, "the torch UNet")),
        **read(adapter_to_jax(as_tensors(adapter), id_shapes, "the torch adapter")),
    }


class Part:
    """A part of one of our networks, to be called with its own weights or one of them changed.

    Attributes:
      params: keyed by the path inside the part.
    """

    def __init__(self, network: nnx.Module, path: str, call: Callable | None = None):
        """Takes the part at a dotted path of a bound network; `call(part, *args)` runs it."""
        for step in path.split(".") if path else ():
            network = network[int(step)] if step.isdigit() else getattr(network, step)
        graph, state = nnx.split(network)
        flat = nnx.to_flat_state(state)
        paths = {".".join(map(str, path)): path for path, _ in flat}
        self.params = {".".join(map(str, path)): leaf[...] for path, leaf in flat}

        @jax.jit
        def run(params, *args):
            merged = nnx.merge(graph, nnx.from_flat_state([(paths[n], params[n]) for n in params]))
            return merged(*args) if call is None else call(merged, *args)

        self._run = run

    def __call__(self, *args):
        return self._run(self.params, *args)

    def without(self, name: str, *args):
        """The output with the parameter `name` switched off: zeros, or ones for a norm's scale."""
        neutral = jnp.ones_like if name.endswith("scale") else jnp.zeros_like
        return self._run(self.params | {name: neutral(self.params[name])}, *args)
