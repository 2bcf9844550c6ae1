"""Exports the networks to ONNX, in the format of insightface's face packs."""

from collections.abc import Mapping

import numpy as np
import onnx

from miniature.faces.networks import (
    EPSILON,
    GROUPS,
    POOL,
    STRIDES,
    TOKENS,
    DetectorConfig,
    JudgeConfig,
    RecognizerConfig,
)
from miniature.faces.onnx_graph import Graph


def recognizer(config: RecognizerConfig, params: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A model from [batch, 3, 112, 112], RGB in [-1, 1], to [batch, 512]."""
    graph = Graph(params)
    x = graph.relu(graph.conv("crop", "conv_in", stride=2))
    for i, count in enumerate(config.blocks):
        x = _down_stage(graph, x, f"stages.{i}", count)
    x = graph.relu(graph.group_norm(x, "norm_out", GROUPS, EPSILON))
    x = graph.node("Transpose", graph.conv(x, "conv_out"), perm=[0, 2, 3, 1])
    x = graph.linear(graph.node("Flatten", x), "embedding")
    graph.node("Identity", x, name="identity")
    return graph.model({"crop": ["batch", 3, 112, 112]}, {"identity": ["batch", config.embedding]})


def judge(config: JudgeConfig, params: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A model with the inputs and outputs of `recognizer`."""
    graph = Graph(params)
    x = graph.relu(graph.conv("crop", "conv_in", stride=2))
    x = graph.relu(graph.conv(x, "conv_mid", stride=2))
    x = graph.conv(x, "patches", stride=2, padding=0)
    x = graph.node("Reshape", x, graph.constant([0, 0, TOKENS], np.int64))
    x = graph.node("Transpose", x, perm=[0, 2, 1])
    for i in range(config.depth):
        name = f"blocks.{i}"
        h = graph.node("Transpose", graph.layer_norm(x, f"{name}.norm1", EPSILON), perm=[0, 2, 1])
        h = graph.linear(graph.relu(graph.linear(h, f"{name}.tokens_in")), f"{name}.tokens_out")
        x = graph.node("Add", x, graph.node("Transpose", h, perm=[0, 2, 1]))
        h = graph.linear(graph.layer_norm(x, f"{name}.norm2", EPSILON), f"{name}.features_in")
        x = graph.node("Add", x, graph.linear(graph.relu(h), f"{name}.features_out"))
    x = graph.linear(graph.layer_norm(x, "norm_out", EPSILON), "narrow")
    x = graph.node("Flatten", x)
    graph.node("Identity", graph.linear(x, "embedding"), name="identity")
    return graph.model({"crop": ["batch", 3, 112, 112]}, {"identity": ["batch", config.embedding]})


def detector(config: DetectorConfig, params: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A model from [1, 3, height, width], (RGB - 127.5) / 128, to SCRFD's nine outputs."""
    graph = Graph(params)
    x = graph.node("AveragePool", "picture", kernel_shape=[POOL] * 2, strides=[POOL] * 2)
    maps = []
    for i, count in enumerate(config.blocks):
        x = _down_stage(graph, x, f"stages.{i}", count)
        maps.append(x)
    above, outputs = None, {}
    for i in reversed(range(len(maps))):
        x = graph.conv(maps[i], f"lateral.{i}")
        if above is not None:
            x = graph.node("Add", x, graph.upsample_twice(above))
        above = x
        x = graph.relu(graph.conv(x, f"heads.{i}.conv"))
        for part, width in (("score", 1), ("box", 4), ("kps", 10)):
            found = graph.node("Transpose", graph.conv(x, f"heads.{i}.{part}"), perm=[0, 2, 3, 1])
            shape = graph.constant([-1, width], np.int64)
            name = f"{part}_{STRIDES[i]}"
            if part == "score":
                found = graph.node("Sigmoid", found)
            graph.node("Reshape", found, shape, name=name)
            outputs[name] = [f"anchors_{STRIDES[i]}", width]
    ordered = {f"{p}_{s}": outputs[f"{p}_{s}"] for p in ("score", "box", "kps") for s in STRIDES}
    return graph.model({"picture": [1, 3, "height", "width"]}, ordered)


def _down_stage(graph: Graph, x: str, name: str, blocks: int) -> str:
    """Adds a `networks.DownStage`."""
    x = graph.conv(x, f"{name}.down", stride=2)
    for i in range(blocks):
        x = graph.residual_block(x, f"{name}.blocks.{i}", GROUPS, EPSILON)
    return x
