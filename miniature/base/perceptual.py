"""The perceptual error of pictures, in features of the face pack's recognizer."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from instantid_jax.errors import InputError
from train.identity.onnx_network import OnnxNetwork, read_recognizer

# Number of activations to compare: one at half resolution, then two normalized ones at a quarter
# and two at an eighth.
ACTIVATIONS = 5


def make_perceptual_error(recognizer: Path) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the mean absolute feature difference of pictures [B, H, W, 3] in [-1, 1].

    Source: Johnson et al. 2016.

    Raises:
      InputError: if the file is not a recognizer, or has too few activations.
    """
    network, load = read_recognizer(recognizer)
    params = load(jnp.dtype("float32"))
    features = _features(network, recognizer)

    def perceptual_error(pictures: jax.Array, others: jax.Array) -> jax.Array:
        both = jnp.concatenate([pictures, others])
        found = [part.bind({n: params[n] for n in part.shapes})(both) for part in features]
        halves = [jnp.split(each, 2) for each in found]
        return jnp.stack([jnp.abs(one - other).mean() for one, other in halves]).mean()

    return perceptual_error


def _features(network: OnnxNetwork, path: Path) -> list[OnnxNetwork]:
    """The recognizer up to each activation; XLA compiles their common part once."""
    graph = network.config
    ends = [i for i, node in enumerate(graph.nodes) if node.op in ("Relu", "PRelu")][:ACTIVATIONS]
    if len(ends) < ACTIVATIONS:
        raise InputError(
            f"{path} has {len(ends)} activations, expected {ACTIVATIONS} or more: use the face "
            "pack's recognizer"
        )
    parts = []
    for end in ends:
        nodes = graph.nodes[: end + 1]
        read = {name for node in nodes for name in node.inputs}
        parts.append(
            OnnxNetwork(
                dataclasses.replace(graph, nodes=nodes, output=nodes[end].output),
                {name: shape for name, shape in network.shapes.items() if name in read},
            )
        )
    return parts
