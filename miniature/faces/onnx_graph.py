"""Builds ONNX graphs of our layers, with versions and names that insightface accepts."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# By default onnx writes newer versions than onnxruntime reads.
IR_VERSION, OPSET = 10, 17


class Graph:
    """Nodes and constants of a graph on NCHW maps; each node has one output with the node's name.

    Weights are stored in float16, computation is in float32. Nodes are not named after their
    operations, because insightface guesses a recognizer's input range from such names.
    """

    def __init__(self, params: Mapping[str, np.ndarray]):
        """params: flat float32 parameters; kernels are HWIO or [in, out]."""
        self._params = params
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        name = name or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: object, dtype: type = np.float32) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def conv(self, x: str, name: str, *, stride: int = 1, padding: int | None = None) -> str:
        """Adds a convolution; `padding` defaults to half the kernel."""
        kernel = self._params[f"{name}.kernel"].transpose(3, 2, 0, 1)
        padding = kernel.shape[-1] // 2 if padding is None else padding
        return self.node(
            "Conv",
            x,
            self._weight(kernel),
            self._weight(self._params[f"{name}.bias"]),
            strides=[stride] * 2,
            pads=[padding] * 4,
        )

    def linear(self, x: str, name: str) -> str:
        """Adds a linear layer on the last axis."""
        kernel, bias = self._params[f"{name}.kernel"], self._params[f"{name}.bias"]
        return self.node("Add", self.node("MatMul", x, self._weight(kernel)), self._weight(bias))

    def layer_norm(self, x: str, name: str, eps: float) -> str:
        """Adds a layer norm over the last axis."""
        scale, bias = (self._weight(self._params[f"{name}.{part}"]) for part in ("scale", "bias"))
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)

    def group_norm(self, x: str, name: str, groups: int, eps: float) -> str:
        shape = self.node("Shape", x)
        grouped = self.node("Reshape", x, self.constant([0, groups, -1], np.int64))
        ones, zeros = self.constant(np.ones(groups)), self.constant(np.zeros(groups))
        normed = self.node("InstanceNormalization", grouped, ones, zeros, epsilon=eps)
        normed = self.node("Reshape", normed, shape)
        scale, bias = (
            self._weight(self._params[f"{name}.{part}"].reshape(-1, 1, 1))
            for part in ("scale", "bias")
        )
        return self.node("Add", self.node("Mul", normed, scale), bias)

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def upsample_twice(self, x: str) -> str:
        scales = self.constant([1, 1, 2, 2])
        return self.node(
            "Resize",
            x,
            "",
            scales,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def residual_block(self, x: str, name: str, groups: int, eps: float) -> str:
        """Adds a `networks.ResidualBlock`."""
        h = x
        for i in (1, 2):
            h = self.relu(self.group_norm(h, f"{name}.norm{i}", groups, eps))
            h = self.conv(h, f"{name}.conv{i}")
        return self.node("Add", x, h)

    def model(self, inputs: dict[str, list], outputs: dict[str, list]) -> onnx.ModelProto:
        """Builds and checks the model; takes names and shapes, whose sizes may be symbolic."""
        declared = (
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in shapes.items()
            ]
            for shapes in (inputs, outputs)
        )
        graph = helper.make_graph(self._nodes, "miniature", *declared, self._constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opset)
        onnx.checker.check_model(model)
        return model

    def _weight(self, values: np.ndarray) -> str:
        stored = self.constant(values, np.float16)
        return self.node("Cast", stored, to=TensorProto.FLOAT)
