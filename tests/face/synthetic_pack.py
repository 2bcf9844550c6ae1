"""A face pack of a few kilobytes that insightface loads: red squares are faces.

The detector finds squares of high red, 4 strides wide, that stand alone: sides of 32, 64 and 128
pixels at detection size, on an 8, 16 and 32 pixel grid to within about a third of a step. Larger
ones are found once the photo is shrunk. The recognizer is a fixed random projection of the crop's
colors, so what green and blue show is the identity. Made for tests; no weights, no training.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
SIDES = tuple(4 * stride for stride in STRIDES)

# insightface.utils.face_align.arcface_dst: where a 112 x 112 crop has its five points.
TEMPLATE = np.array(
    [38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366, 41.5493, 92.3655, 70.7299, 92.2041],
    np.float32,
).reshape(5, 2)


def write_pack(folder: str | Path, embedding_size: int = 512, seed: int = 0) -> Path:
    """Writes `detector.onnx` and `recogniser.onnx` into a folder, which is made."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(detector(), folder / "detector.onnx")
    onnx.save(recognizer(embedding_size, seed), folder / "recogniser.onnx")
    return folder


def draw_face(image: np.ndarray, top: int, left: int, side: int, identity: int) -> None:
    """Draws a face of that identity into an RGB image; parts out of frame are cut off."""
    # Green and blue stay below what the detector takes for red, should channels be swapped.
    pattern = np.random.default_rng(identity).integers(0, 200, (4, 4, 3), np.uint8)
    pattern[..., 0] = 255
    rows = np.arange(side) * 4 // side
    cut = image[top : top + side, left : left + side]
    cut[:] = pattern[rows][:, rows][: cut.shape[0], : cut.shape[1]]


def photo(height: int, width: int, *faces: tuple[int, int, int, int]) -> np.ndarray:
    """A dark RGB image with faces, each (top, left, side, identity)."""
    image = np.full((height, width, 3), 40, np.uint8)
    for face in faces:
        draw_face(image, *face)
    return image


def keypoints(top: int, left: int, side: int) -> np.ndarray:
    """The five points the detector finds in a square: [5, 2], x and y."""
    return TEMPLATE * (side / 112) + np.array([left, top], np.float32)


def detector(*, with_keypoints: bool = True, size: int | None = None) -> onnx.ModelProto:
    """Nine outputs: scores of strides 8, 16, 32, then boxes, then keypoints (six without).

    Input [1, 3, height, width], (RGB - 127.5) / 128. Sizes are symbolic unless `size` is given.
    """
    graph = _Graph()
    # 1 where red is above 235 or so, 0 where it is below 205.
    red = graph.node("Slice", "image", graph.ints([0]), graph.ints([1]), graph.ints([1]))
    red = graph.node("Add", graph.node("Mul", red, graph.floats(4.0)), graph.floats(-2.5))
    red = graph.node("Clip", red, graph.floats(0.0), graph.floats(1.0))
    for stride in STRIDES:
        # A cell looks at the square of 4 strides below and right of its corner, and at the frame
        # one stride wide around that, which must not be red.
        inside = graph.pool(red, 4, stride, before=0, after=3)
        around = graph.pool(red, 6, stride, before=1, after=4)
        frame = graph.node(
            "Sub",
            graph.node("Mul", around, graph.floats(36 / 20)),
            graph.node("Mul", inside, graph.floats(16 / 20)),
        )
        score = graph.node("Sub", inside, graph.node("Mul", frame, graph.floats(1.5)))
        score = graph.node("Clip", score, graph.floats(0.0), graph.floats(1.0))
        # Two anchors a cell: the second less sure of the same, for suppression to remove.
        score = graph.node("Reshape", score, graph.ints([-1, 1]))
        score = graph.node("Mul", score, graph.floats([[1.0, 0.9]]))
        score = graph.node("Reshape", score, graph.ints([-1, 1]), name=f"score_{stride}")
        nothing = graph.node("Mul", score, graph.floats(0.0))
        graph.node("Add", nothing, graph.floats([[0, 0, 4, 4]]), name=f"box_{stride}")
        points = (TEMPLATE * 4 / 112).reshape(1, 10)
        graph.node("Add", nothing, graph.floats(points), name=f"kps_{stride}")
    kinds = {"score": 1, "box": 4} | ({"kps": 10} if with_keypoints else {})
    outputs = {
        f"{kind}_{stride}": [f"anchors_{stride}", width]
        for kind, width in kinds.items()
        for stride in STRIDES
    }
    return graph.model({"image": [1, 3, size or "height", size or "width"]}, outputs)


def recognizer(embedding_size: int = 512, seed: int = 0, size: int = 112) -> onnx.ModelProto:
    """[batch, 3, 112, 112], (RGB - 127.5) / 127.5, to embeddings of length about 20.

    No two nodes are named `Sub*` and `Mul*`: insightface would then feed it 0 to 255.
    """
    graph = _Graph()
    cells = 3 * (size // 16) ** 2
    weights = np.random.default_rng(seed).normal(size=(cells, embedding_size))
    weights *= 30 / np.sqrt(cells * embedding_size)
    pooled = graph.pool("crop", 1, 16, before=0, after=0)
    flat = graph.node("Flatten", pooled)
    graph.node("MatMul", flat, graph.floats(weights), name="embedding")
    return graph.model({"crop": ["batch", 3, size, size]}, {"embedding": ["batch", embedding_size]})


class _Graph:
    """Collects nodes and constants; every node has one output, named after it."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, name: str | None = None, **attributes) -> str:
        # Not named after the operation: insightface guesses the input range by that name.
        name = name or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def pool(self, x: str, cells: int, stride: int, *, before: int, after: int) -> str:
        """Mean over squares of `cells` strides, zeros outside, padded by that many strides."""
        pads = [before * stride, before * stride, after * stride, after * stride]
        kernel = [cells * stride] * 2
        strides = [stride] * 2
        return self.node(
            "AveragePool", x, kernel_shape=kernel, strides=strides, pads=pads, count_include_pad=1
        )

    def floats(self, values) -> str:
        return self._constant(np.asarray(values, np.float32))

    def ints(self, values) -> str:
        return self._constant(np.asarray(values, np.int64))

    def _constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def model(self, inputs: dict[str, list], outputs: dict[str, list]) -> onnx.ModelProto:
        def declare(shapes):
            return [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in shapes.items()
            ]

        graph = helper.make_graph(
            self.nodes, "synthetic", declare(inputs), declare(outputs), self.constants
        )
        # By default onnx writes a newer version than onnxruntime reads.
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
        onnx.checker.check_model(model)
        return model
