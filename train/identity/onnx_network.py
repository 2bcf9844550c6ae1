"""A face pack's recogniser as a JAX function, so that gradients go through it.

onnxruntime runs a recogniser, but gives no gradients, and no kept library makes JAX of ONNX. The
operations are those of the networks in face packs: ArcFace's residual ones, and the miniature's.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.params import Params, mismatches


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation: names of its inputs (empty where one is left out) and of its output."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class OnnxGraph:
    """A graph of one input and one output.

    Attributes:
      nodes: in an order in which they can be computed.
      input, output: names.
      side: height and width of the input, [B, 3, side, side].
      integers: constants that decide shapes, and so are no parameters: (name, values, shape).
      takes_bytes: the input is wanted in [0, 255] in place of [-1, 1].
    """

    nodes: tuple[Node, ...]
    input: str
    output: str
    side: int
    integers: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    takes_bytes: bool


@dataclasses.dataclass(frozen=True)
class OnnxNetwork:
    """A graph and its parameters' shapes; what `Network` is for modules.

    Attributes:
      config: the graph.
      shapes: name to shape of every parameter.
    """

    config: OnnxGraph
    shapes: Mapping[str, jax.ShapeDtypeStruct]

    def bind(self, params: Mapping[str, jax.Array]) -> Callable[[jax.Array], jax.Array]:
        """The function of [B, side, side, 3] in [-1, 1] to [B, E].

        Raises:
          ValueError: if a parameter's name or shape differs.
        """
        faults = mismatches(
            {name: value.shape for name, value in self.shapes.items()},
            {name: value.shape for name, value in params.items()},
        )
        if faults:
            raise ValueError(f"parameters do not fit the graph: {'; '.join(faults)}")
        return functools.partial(_run, self.config, params)


def read_recogniser(path: Path) -> tuple[OnnxNetwork, Callable[[jnp.dtype | None], Params]]:
    """Reads a face pack's recogniser.

    Returns:
      The network, and what loads its parameters in a dtype.
    Raises:
      InputError: if it is no recogniser of a face pack, or has an operation not known here.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    if not path.is_file():
        raise InputError(f"{path}: no such file; give the recogniser of a face pack, an .onnx file")
    try:
        graph = onnx.load(path).graph
    except DecodeError as error:
        raise InputError(f"{path} is no ONNX file, or damaged: {error}") from error
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    # Models of old exporters list their weights as inputs, too.
    inputs = [each for each in graph.input if each.name not in constants]
    sides = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if inputs else []
    if len(inputs) != 1 or len(graph.output) != 1 or sides[1:] != [3, sides[-1], sides[-1]]:
        raise InputError(
            f"{path} is no recogniser: expected one input [batch, 3, side, side] and one output"
        )
    unknown = sorted({node.op_type for node in graph.node} - _OPERATIONS.keys())
    if unknown:
        raise InputError(
            f"{path} has {', '.join(unknown)}, known here: {', '.join(sorted(_OPERATIONS))}"
        )
    nodes = tuple(
        Node(
            op=node.op_type,
            inputs=tuple(node.input),
            output=node.output[0],
            attributes=tuple(
                (each.name, _static(onnx.helper.get_attribute_value(each)))
                for each in node.attribute
            ),
        )
        for node in graph.node
    )
    floats = {
        name: value for name, value in constants.items() if np.issubdtype(value.dtype, np.floating)
    }
    integers = tuple(
        (name, tuple(value.ravel().tolist()), value.shape)
        for name, value in constants.items()
        if name not in floats
    )
    names = [node.name for node in graph.node[:8]]
    network = OnnxNetwork(
        OnnxGraph(
            nodes=nodes,
            input=inputs[0].name,
            output=graph.output[0].name,
            side=sides[-1],
            integers=integers,
            # Source: insightface/model_zoo/arcface_onnx.py:ArcFaceONNX.
            takes_bytes=any(n.startswith(("Sub", "_minus")) for n in names)
            and any(n.startswith(("Mul", "_mul")) for n in names),
        ),
        {name: jax.ShapeDtypeStruct(v.shape, jnp.float32) for name, v in floats.items()},
    )
    return network, lambda dtype: {
        name: jnp.asarray(value, dtype or value.dtype) for name, value in floats.items()
    }


def _run(graph: OnnxGraph, params: Mapping[str, jax.Array], pixels: jax.Array) -> jax.Array:
    if graph.takes_bytes:
        pixels = (pixels + 1) * 127.5
    values: dict[str, Any] = {name: np.reshape(v, shape) for name, v, shape in graph.integers}
    values |= params | {graph.input: pixels.transpose(0, 3, 1, 2)}
    # ONNX broadcasts as NumPy does.
    with jax.numpy_rank_promotion("allow"):
        for node in graph.nodes:
            inputs = [values[name] if name else None for name in node.inputs]
            values[node.output] = _OPERATIONS[node.op](*inputs, **dict(node.attributes))
    return values[graph.output]


def _static(value: Any) -> Any:
    """An attribute as a value that compares, hashes and is written as JSON."""
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if not isinstance(value, (int, float, str)) else value


def _conv(x, kernel, bias=None, *, strides, pads, group=1, dilations=(1, 1), kernel_shape=None):
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        [(pads[0], pads[2]), (pads[1], pads[3])],
        rhs_dilation=dilations,
        feature_group_count=group,
    )
    return y if bias is None else y + bias[:, None, None]


def _channels(value, x):
    return value.reshape(-1, *[1] * (x.ndim - 2))


def _batch_norm(x, scale, bias, mean, variance, *, epsilon=1e-5, **_):
    factor = scale * jax.lax.rsqrt(variance + epsilon)
    return x * _channels(factor, x) + _channels(bias - mean * factor, x)


def _instance_norm(x, scale, bias, *, epsilon=1e-5):
    axes = tuple(range(2, x.ndim))
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    normed = (x - mean) * jax.lax.rsqrt(variance + epsilon)
    return normed * _channels(scale, x) + _channels(bias, x)


def _layer_norm(x, scale, bias, *, axis=-1, epsilon=1e-5):
    normed = (x - x.mean(axis, keepdims=True)) * jax.lax.rsqrt(x.var(axis, keepdims=True) + epsilon)
    return normed * scale + bias


def _gemm(a, b, c, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    return alpha * ((a.T if transA else a) @ (b.T if transB else b)) + beta * c


def _reshape(x, shape):
    return x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(shape.tolist())])


# Source: onnx.ai/onnx/operators, versions 7 to 22.
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "Add": jnp.add,
    "BatchNormalization": _batch_norm,
    # Parameters come in the dtype of the computation.
    "Cast": lambda x, *, to: x,
    "Conv": _conv,
    "Dropout": lambda x, *_, **__: x,
    "Flatten": lambda x, *, axis=1: x.reshape(int(np.prod(x.shape[:axis])), -1),
    "Gemm": _gemm,
    "Identity": lambda x: x,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": lambda x, y: x @ y,
    "Mul": jnp.multiply,
    "PRelu": lambda x, slope: jnp.where(x >= 0, x, slope * x),
    "Relu": jax.nn.relu,
    "Reshape": _reshape,
    "Shape": lambda x: np.array(x.shape),
    "Sub": jnp.subtract,
    "Transpose": lambda x, *, perm: x.transpose(perm),
}
