"""The networks as ONNX, as insightface loads them from a face pack's folder."""

from collections.abc import Mapping

import numpy as np
import onnx

from miniature.faces.networks import EPSILON, GROUPS, RecogniserConfig
from miniature.faces.onnx_graph import Graph


def recogniser(config: RecogniserConfig, params: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """[batch, 3, 112, 112], RGB in [-1, 1], to [batch, 512]."""
    graph = Graph(params)
    x = graph.relu(graph.conv("crop", "conv_in", stride=2))
    for i, count in enumerate(config.blocks):
        x = graph.conv(x, f"stages.{i}.down", stride=2)
        for j in range(count):
            x = graph.residual_block(x, f"stages.{i}.blocks.{j}", GROUPS, EPSILON)
    x = graph.relu(graph.group_norm(x, "norm_out", GROUPS, EPSILON))
    x = graph.node("Transpose", graph.conv(x, "conv_out"), perm=[0, 2, 3, 1])
    x = graph.linear(graph.node("Flatten", x), "embedding")
    graph.node("Identity", x, name="identity")
    return graph.model({"crop": ["batch", 3, 112, 112]}, {"identity": ["batch", config.embedding]})
