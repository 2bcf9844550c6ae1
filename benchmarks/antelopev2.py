"""`python -m benchmarks.antelopev2`: times a recognizer of antelopev2's size, per face.

The pack's license does not allow bundling. Its recognizer is an IResNet-100 (Deng et al. 2019,
ArcFace; insightface's recognition/arcface_torch/backbones/iresnet.py), whose run time does not
depend on the weights. The benchmark uses random weights, folded batch norms and one thread of
onnxruntime.
"""

import json
import statistics
import time

import numpy as np
import onnxruntime

from benchmarks import recording
from benchmarks.recording import command, environment
from instantid_jax.face.analysis import BATCH
from miniature.faces.onnx_graph import Graph

RESULTS = recording.RESULTS / "antelopev2.json"
# (blocks, channels) of each stage; its first block halves the sides.
STAGES = ((3, 64), (13, 128), (30, 256), (3, 512))
SIDE, EMBEDDING = 112, 512


def main(batches: int = 3, record: bool = False) -> None:
    """Times the recognizer.

    Args:
      batches: number of timed calls of 32 crops; the median is reported.
      record: write the result to benchmarks/results/antelopev2.json.
    """
    about = environment("onnxruntime", "onnx")
    model, products = iresnet100(np.random.default_rng(0))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    crops = np.zeros((BATCH, 3, SIDE, SIDE), np.float32)
    seconds = []
    for _ in range(batches + 1):
        start = time.process_time()
        session.run(None, {"crop": crops})
        seconds.append(time.process_time() - start)
    each = statistics.median(seconds[1:]) / BATCH
    result = {
        "gigaflop_per_face": round(2 * products / 1e9, 2),
        "milliseconds_per_face_and_core": round(1e3 * each, 1),
        "gigaflop_per_second_and_core": round(2 * products / each / 1e9, 1),
        **about,
        "command": command("benchmarks.antelopev2"),
    }
    print(json.dumps(result, indent=1))
    if record:
        recording.write(RESULTS, result)


def iresnet100(random: np.random.Generator) -> tuple[bytes, int]:
    """The network as an ONNX file, and its multiply-adds per face."""
    params: dict[str, np.ndarray] = {}
    graph = Graph(params)
    products = 0

    def conv(x: str, channels: tuple[int, int], side: int, kernel: int, stride: int = 1) -> str:
        nonlocal products
        name = f"conv{len(params)}"
        shape = (kernel, kernel, *channels)
        inputs = kernel * kernel * channels[0]
        params[f"{name}.kernel"] = (random.normal(size=shape) / inputs**0.5).astype(np.float32)
        params[f"{name}.bias"] = np.zeros(channels[1], np.float32)
        products += inputs * channels[1] * (side // stride) ** 2
        return graph.conv(x, name, stride=stride)

    def prelu(x: str, channels: int) -> str:
        return graph.node("PRelu", x, graph.constant(np.full((channels, 1, 1), 0.25)))

    side, last = SIDE, 64
    x = prelu(conv("crop", (3, last), side, 3), last)
    for blocks, channels in STAGES:
        for block in range(blocks):
            stride = 1 if block else 2
            h = prelu(conv(x, (last, channels), side, 3), channels)
            h = conv(h, (channels, channels), side, 3, stride)
            x = x if block else conv(x, (last, channels), side, 1, stride)
            x = graph.node("Add", x, h)
            side, last = side // stride, channels
    width = last * side**2
    weights = random.normal(size=(width, EMBEDDING)) / width**0.5
    params["embedding.kernel"] = weights.astype(np.float32)
    params["embedding.bias"] = np.zeros(EMBEDDING, np.float32)
    products += width * EMBEDDING
    graph.node("Identity", graph.linear(graph.node("Flatten", x), "embedding"), name="identity")
    shapes = {"crop": ["batch", 3, SIDE, SIDE]}, {"identity": ["batch", EMBEDDING]}
    return graph.model(*shapes).SerializeToString(), products


if __name__ == "__main__":
    import tyro

    tyro.cli(main, prog="python -m benchmarks.antelopev2")
