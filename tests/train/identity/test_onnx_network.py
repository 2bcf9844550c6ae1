"""Recognizers in JAX match onnxruntime and insightface."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from instantid_jax.embedded import FACE_PACK
from instantid_jax.errors import InputError
from miniature.evaluation.held_out import JUDGE
from tests.parity.reference import relative_error
from train.identity.onnx_network import read_recognizer

SIDE = 112


def arcface(names=("first", "second"), side=SIDE, outputs=1, odd=None, **of_odd):
    """A small network of ArcFace's operations, in its exporters' form."""
    random = np.random.default_rng(0)
    weights, nodes = {}, []

    def weight(*shape, low=-1.0, high=1.0):
        name = str(len(weights))
        weights[name] = random.uniform(low, high, shape).astype(np.float32)
        return name

    def node(op, *inputs, name="", **attributes):
        nodes.append(helper.make_node(op, inputs, [f"y{len(nodes)}"], name=name, **attributes))
        return f"y{len(nodes) - 1}"

    def norm(x, width):
        mean, variance = weight(width), weight(width, low=0.5, high=2)
        scale = weight(width), weight(width)
        return node("BatchNormalization", x, *scale, mean, variance, epsilon=2e-5, momentum=0.9)

    x = node("Sub", "image", weight(1, low=127, high=128), name=names[0])
    x = node("Mul", x, weight(1, low=0.007, high=0.008), name=names[1])
    x = node("Conv", x, weight(8, 3, 3, 3), strides=[2, 1], pads=[1, 0, 1, 2], kernel_shape=[3, 3])
    x = node("PRelu", norm(x, 8), weight(8, 1, 1))
    h = node("Conv", x, weight(8, 2, 3, 3), weight(8), strides=[1, 1], pads=[2] * 4, group=4,
             dilations=[2, 2])  # fmt: skip
    x = node("Relu", node("Add", norm(h, 8), x))
    x = node("Flatten", node("Dropout", x))
    x = node("Gemm", x, weight(12, 8 * (side // 2) * side), weight(12), transB=1, alpha=0.5)
    if odd is not None:
        x = node(odd, *() if odd == "Constant" else (x,), **of_odd)
    declared = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("image", (3, side, side)), (x, (12,)))
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "arcface", declared[:1], declared[1:] * outputs, constants)
    opset = [helper.make_opsetid("", 11)]
    return helper.make_model(graph, ir_version=8, opset_imports=opset)


@pytest.fixture
def saved(tmp_path):
    def save(**settings):
        path = tmp_path / "recogniser.onnx"
        onnx.save(arcface(**settings), path)
        return path

    return save


def ours(path, pixels):
    network, load = read_recognizer(path)
    run = jax.jit(lambda params, pixels: network.bind(params)(pixels))
    return np.asarray(run(load(jnp.dtype("float32")), jnp.asarray(pixels)))


def theirs(path, pixels):
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: pixels.transpose(0, 3, 1, 2)})[0]


def drawn(side, rows=3):
    return np.random.default_rng(1).uniform(-1, 1, (rows, side, side, 3)).astype(np.float32)


@pytest.mark.parametrize("path", [FACE_PACK / "recogniser.onnx", JUDGE], ids=["shipped", "judge"])
def test_miniature_recognizers_match_onnxruntime(path):
    pixels = drawn(112)
    assert relative_error(ours(path, pixels), theirs(path, pixels)) < 1e-5


def test_arcface_operations_match_onnxruntime(saved):
    path, pixels = saved(), drawn(SIDE)
    assert relative_error(ours(path, pixels), theirs(path, pixels)) < 1e-5


@pytest.mark.parametrize("names", [("first", "second"), ("Sub_0", "Mul_1"), ("Sub_0", "second")])
def test_input_range_is_insightfaces(saved, names):
    """insightface infers the range from the nodes' names."""
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    path = saved(names=names)
    images = np.random.default_rng(2).integers(0, 256, (2, 112, 112, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(path)
    wanted = ArcFaceONNX(str(path), session=session).get_feat([p[..., ::-1] for p in images])
    got = ours(path, images.astype(np.float32) / 127.5 - 1)
    assert relative_error(got, wanted) < 1e-5


def test_rejects_files_that_are_not_recognizers(saved, tmp_path):
    missing, text = tmp_path / "missing.onnx", tmp_path / "text.onnx"
    text.write_text("not a network")
    for path, words in (
        (missing, "no such file"),
        (text, "not a valid ONNX file"),
        (FACE_PACK / "detector.onnx", "is not a recognizer: expected one input"),
        (saved(outputs=2), "is not a recognizer: expected one input"),
    ):
        with pytest.raises(InputError, match=words):
            read_recognizer(path)
    with pytest.raises(InputError, match=r"has the operation Softmax; supported: Add, Batch"):
        read_recognizer(saved(odd="Softmax"))
    value = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    with pytest.raises(InputError, match=r"has the operation ConstantOfShape; supported"):
        read_recognizer(saved(odd="ConstantOfShape", value=value))
    with pytest.raises(InputError, match="has a Constant without `value`, which is not supported"):
        read_recognizer(saved(odd="Constant", value_float=1.0))


@pytest.mark.parametrize("side", [0, 96, 128])
def test_rejects_other_input_sizes(saved, side):
    with pytest.raises(InputError, match=f"takes faces of {side or 'any'} pixels a side"):
        read_recognizer(saved(side=side))


def single(op, shape, *inputs, **attributes):
    """One operation after a product with a Constant node, as some exporters write them."""
    side = 112
    kinds = {"image": ["batch", 3, side, side], "out": ["batch", *shape]}
    declared = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in kinds.items()]
    names = [f"w{i}" for i in range(len(inputs))]
    half = numpy_helper.from_array(np.float32(0.5))
    nodes = [
        helper.make_node("Constant", [], ["half"], value=half),
        helper.make_node("Mul", ["image", "half"], ["x"]),
        helper.make_node(op, ["x", *names], ["out"], **attributes),
    ]
    constants = [numpy_helper.from_array(v, n) for n, v in zip(names, inputs, strict=True)]
    graph = helper.make_graph(nodes, "single", declared[:1], declared[1:], constants)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, ir_version=8, opset_imports=opset)


def weights(*shape):
    return np.random.default_rng(3).uniform(0.5, 1.5, shape).astype(np.float32)


PER_CHANNEL = [weights(3)] * 4


@pytest.mark.parametrize(
    ("op", "shape", "inputs", "attributes"),
    [
        ("Conv", (4, 110, 110), [weights(4, 3, 3, 3)], {}),
        ("Conv", (4, 110, 110), [weights(4, 3, 3, 3)], {"auto_pad": "NOTSET"}),
        ("LayerNormalization", (3, 112, 112), [weights(112, 112)], {"axis": -2, "stash_type": 1}),
        ("BatchNormalization", (3, 112, 112), PER_CHANNEL, {"training_mode": 0}),
        ("Reshape", (3, 112 * 112), [np.array([0, 3, -1])], {"allowzero": 0}),
        ("Transpose", (112, 3, 112), [], {"perm": [0, 3, 1, 2]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_omitted_and_default_attributes_match_onnxruntime(tmp_path, op, shape, inputs, attributes):
    path = tmp_path / "single.onnx"
    onnx.save(single(op, shape, *inputs, **attributes), path)
    pixels = drawn(112)
    assert relative_error(ours(path, pixels), theirs(path, pixels)) < 1e-5


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Conv", [weights(4, 3, 3, 3)], {"auto_pad": "SAME_UPPER"}),
        ("BatchNormalization", PER_CHANNEL, {"training_mode": 1}),
        ("Relu", [], {"slope": 0.1}),
    ],
    ids=["padding", "training", "unknown"],
)
def test_rejects_unsupported_attributes(tmp_path, op, inputs, attributes):
    path = tmp_path / "single.onnx"
    onnx.save(single(op, (3, 112, 112), *inputs, **attributes), path)
    name, value = next(iter(attributes.items()))
    with pytest.raises(InputError, match=f"has {op} with {name}={value}"):
        read_recognizer(path)


def test_rejects_other_parameters():
    network, load = read_recognizer(FACE_PACK / "recogniser.onnx")
    params = load(jnp.dtype("float32"))
    del params[next(iter(params))]
    with pytest.raises(ValueError, match="1 missing"):
        network.bind(params)
