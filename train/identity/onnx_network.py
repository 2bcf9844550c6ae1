"""A face pack's ONNX recognizer as a differentiable JAX function.

onnxruntime computes no gradients, and no maintained library converts ONNX to JAX. The supported
operations are those of ArcFace's residual networks and of the miniature's recognizers.
"""

import dataclasses
import functools
import inspect
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
    """One operation. Input names are empty for omitted optional inputs."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class OnnxGraph:
    """A graph with one input and one output.

    Attributes:
      nodes: operations in topological order.
      input, output: names.
      side: height and width of the input [B, 3, side, side].
      integers: integer constants, which determine shapes and are not parameters, as
        (name, values, shape).
      takes_bytes: the input range is [0, 255] rather than [-1, 1].
    """

    nodes: tuple[Node, ...]
    input: str
    output: str
    side: int
    integers: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    takes_bytes: bool


@dataclasses.dataclass(frozen=True)
class OnnxNetwork:
    """A graph and its parameters' shapes, with the interface of `Network`.

    Attributes:
      config: the graph.
      shapes: parameter shapes by name.
    """

    config: OnnxGraph
    shapes: Mapping[str, jax.ShapeDtypeStruct]

    def bind(self, params: Mapping[str, jax.Array]) -> Callable[[jax.Array], jax.Array]:
        """Returns a function from images [B, side, side, 3] in [-1, 1] to embeddings [B, E].

        Raises:
          ValueError: if the names or shapes of the parameters do not match.
        """
        faults = mismatches(
            {name: value.shape for name, value in self.shapes.items()},
            {name: value.shape for name, value in params.items()},
        )
        if faults:
            raise ValueError(f"parameters do not fit the graph: {'; '.join(faults)}")
        return functools.partial(_run, self.config, params)


def read_recognizer(path: Path) -> tuple[OnnxNetwork, Callable[[jnp.dtype | None], Params]]:
    """Reads a face pack's recognizer.

    Returns:
      The network, and a function that loads its parameters in a dtype, or with None in the file's.
    Raises:
      InputError: if the file is not a recognizer, or uses an unsupported operation.
    """
    graph = _read_graph(path)
    # Old exporters also list the weights as inputs.
    weights = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in weights]
    sides = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if inputs else []
    if len(inputs) != 1 or len(graph.output) != 1 or sides[1:] != [3, sides[-1], sides[-1]]:
        raise InputError(
            f"{path} is not a recognizer: expected one input [batch, 3, side, side] and one output"
        )
    if not sides[-1] or sides[-1] % 112:
        raise InputError(
            f"{path} takes faces of {sides[-1] or 'any'} pixels a side: expected a multiple of 112"
        )
    _check_operations(graph, path)
    nodes = tuple(
        Node(node.op_type, tuple(node.input), node.output[0], _attributes(node))
        for node in graph.node
        if node.op_type != "Constant"
    )
    for node in nodes:
        _check_attributes(node, path)
    constants = _constants(graph)
    floats = {k: v for k, v in constants.items() if np.issubdtype(v.dtype, np.floating)}
    names = [node.name for node in graph.node[:8]]
    network = OnnxNetwork(
        OnnxGraph(
            nodes=nodes,
            input=inputs[0].name,
            output=graph.output[0].name,
            side=sides[-1],
            integers=tuple(
                (name, tuple(value.ravel().tolist()), value.shape)
                for name, value in constants.items()
                if name not in floats
            ),
            # Source: insightface/model_zoo/arcface_onnx.py:ArcFaceONNX.
            takes_bytes=any(n.startswith(("Sub", "_minus")) for n in names)
            and any(n.startswith(("Mul", "_mul")) for n in names),
        ),
        {name: jax.ShapeDtypeStruct(v.shape, jnp.float32) for name, v in floats.items()},
    )

    def load(dtype: jnp.dtype | None) -> Params:
        constants = _constants(_read_graph(path))
        return {name: jnp.asarray(constants[name], dtype) for name in network.shapes}

    return network, load


def _read_graph(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise InputError(f"{path}: no such file; give the .onnx file of a face pack's recognizer")
    try:
        return onnx.load(path).graph
    except DecodeError as error:
        raise InputError(f"{path} is not a valid ONNX file ({error}): copy it again") from error


def _constants(graph: Any) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    written = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    return written | {
        node.output[0]: numpy_helper.to_array(each.t)
        for node in graph.node
        if node.op_type == "Constant"
        for each in node.attribute
    }


def _attributes(node: Any) -> tuple[tuple[str, Any], ...]:
    """A node's attributes as hashable, JSON-serializable values."""
    from onnx import helper

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode()
        return value if isinstance(value, int | float | str) else tuple(value)

    return tuple((each.name, plain(helper.get_attribute_value(each))) for each in node.attribute)


def _check_operations(graph: Any, path: Path) -> None:
    """Rejects unsupported operations, and constants that are not arrays."""
    for node in graph.node:
        if node.op_type == "Constant":
            if [each.name for each in node.attribute] != ["value"]:
                raise InputError(f"{path} has a Constant without `value`, which is not supported")
        elif node.op_type not in _OPERATIONS:
            known = ", ".join(sorted(_OPERATIONS))
            raise InputError(f"{path} has the operation {node.op_type}; supported: {known}")


def _check_attributes(node: Node, path: Path) -> None:
    """Rejects attributes that `_run` would ignore."""
    taken = inspect.signature(_OPERATIONS[node.op]).parameters
    for name, value in node.attributes:
        if name not in taken and value != _FIXED.get(name):
            raise InputError(f"{path} has {node.op} with {name}={value}, which is not supported")


def _run(graph: OnnxGraph, params: Mapping[str, jax.Array], pixels: jax.Array) -> jax.Array:
    if graph.takes_bytes:
        pixels = (pixels + 1) * 127.5
    values: dict[str, Any] = {name: np.reshape(v, shape) for name, v, shape in graph.integers}
    values |= params | {graph.input: pixels.transpose(0, 3, 1, 2)}
    # ONNX broadcasts like NumPy.
    with jax.numpy_rank_promotion("allow"):
        for node in graph.nodes:
            inputs = [values[name] if name else None for name in node.inputs]
            attributes = {k: v for k, v in node.attributes if k not in _FIXED}
            values[node.output] = _OPERATIONS[node.op](*inputs, **attributes)
    return values[graph.output]


def _conv(
    x, kernel, bias=None, *, strides=(1, 1), pads=(0,) * 4, group=1, dilations=(1, 1),
    kernel_shape=None,
):  # fmt: skip
    """`kernel_shape` repeats the kernel's own."""
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


def _batch_norm(x, scale, bias, mean, variance, *, epsilon=1e-5, momentum=0.9):
    """`momentum` is used in training only."""
    factor = scale * jax.lax.rsqrt(variance + epsilon)
    return x * _channels(factor, x) + _channels(bias - mean * factor, x)


def _normed(x, axes, epsilon):
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + epsilon)


def _instance_norm(x, scale, bias, *, epsilon=1e-5):
    return _normed(x, tuple(range(2, x.ndim)), epsilon) * _channels(scale, x) + _channels(bias, x)


def _layer_norm(x, scale, bias=0.0, *, axis=-1, epsilon=1e-5):
    return _normed(x, tuple(range(axis % x.ndim, x.ndim)), epsilon) * scale + bias


def _gemm(a, b, c=0.0, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    return alpha * ((a.T if transA else a) @ (b.T if transB else b)) + beta * c


def _reshape(x, shape):
    return x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(shape.tolist())])


def _flatten(x, *, axis=1):
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


# Source: onnx.ai/onnx/operators, versions 7 to 22.
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "Add": lambda x, y: x + y,
    "BatchNormalization": _batch_norm,
    # Parameters are already in the compute dtype.
    "Cast": lambda x, *, to: x,
    "Conv": _conv,
    # Active in training only.
    "Dropout": lambda x, share=0.5, training=False, *, ratio=0.5, seed=0: x,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "Identity": lambda x: x,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": lambda x, y: x @ y,
    "Mul": lambda x, y: x * y,
    "PRelu": lambda x, slope: jnp.where(x >= 0, x, slope * x),
    "Relu": jax.nn.relu,
    "Reshape": _reshape,
    "Shape": lambda x: np.array(x.shape),
    "Sub": lambda x, y: x - y,
    "Transpose": lambda x, *, perm=None: x.transpose(perm),
}
# Attributes that exporters write although they have the default value.
_FIXED = {"auto_pad": "NOTSET", "spatial": 1, "training_mode": 0, "stash_type": 1, "allowzero": 0}
