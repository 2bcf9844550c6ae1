"""The exported networks match ours, and insightface loads them."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.params import Network
from miniature.faces import export
from miniature.faces.networks import (
    Detector,
    DetectorConfig,
    Judge,
    JudgeConfig,
    Recognizer,
    RecognizerConfig,
)
from tests.parity.reference import relative_error

SMALL = RecognizerConfig(stem=8, channels=(16, 24, 32), blocks=(1, 0, 2), last=8)


SMALL_JUDGE = JudgeConfig(stem=8, features=16, token_features=8, depth=2)
SMALL_DETECTOR = DetectorConfig(channels=(8, 8, 16), blocks=(1, 0, 1), common=8)


def drawn(network):
    """Weights that are exact in float16."""
    random = np.random.default_rng(0)
    params = {}
    for name, value in network.shapes.items():
        fan_in = np.prod(value.shape[:-1]) if name.endswith("kernel") else 100
        values = random.standard_normal(value.shape) / np.sqrt(fan_in) + name.endswith("scale")
        params[name] = values.astype(np.float16).astype(np.float32)
    return params


@pytest.fixture(scope="module", params=["recognizer", "judge"])
def recognizer(request):
    """The face pack's recognizer, and the judge."""
    module, config, exported = {
        "recognizer": (Recognizer, SMALL, export.recognizer),
        "judge": (Judge, SMALL_JUDGE, export.judge),
    }[request.param]
    network = Network(module, config)
    params = drawn(network)
    return network, params, exported(config, params)


@pytest.fixture(scope="module")
def detector():
    network = Network(Detector, SMALL_DETECTOR)
    params = drawn(network)
    return network, params, export.detector(SMALL_DETECTOR, params)


def test_recognizer_matches_ours(recognizer):
    network, params, model = recognizer
    pixels = np.random.default_rng(1).uniform(-1, 1, (3, 112, 112, 3)).astype(np.float32)
    wanted = jax.jit(lambda p, x: network.bind(p)(x))(jax.tree.map(jnp.asarray, params), pixels)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"crop": pixels.transpose(0, 3, 1, 2)})
    assert relative_error(found, wanted) < 1e-5


def test_insightface_loads_it_as_a_recognizer_with_inputs_in_plus_minus_one(recognizer, tmp_path):
    from insightface import model_zoo

    _, _, model = recognizer
    onnx.save(model, tmp_path / "recogniser.onnx")
    loaded = model_zoo.get_model(str(tmp_path / "recogniser.onnx"))
    assert loaded.taskname == "recognition"
    assert (loaded.input_mean, loaded.input_std) == (127.5, 127.5)
    crop = np.random.default_rng(2).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    assert loaded.get_feat(crop).shape == (1, 512)


@pytest.mark.parametrize("size", [(128, 192), (64, 32)])
def test_detector_matches_ours(detector, size):
    network, params, model = detector
    pixels = np.random.default_rng(1).uniform(-1, 1, (1, *size, 3)).astype(np.float32)
    wanted = jax.jit(lambda p, x: network.bind(p)(x))(jax.tree.map(jnp.asarray, params), pixels)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"picture": pixels.transpose(0, 3, 1, 2)})
    scores, boxes, kps = (np.concatenate(found[i : i + 3]) for i in (0, 3, 6))
    assert relative_error(scores[:, 0], jax.nn.sigmoid(wanted[0][0])) < 1e-5
    assert relative_error(boxes, wanted[1][0]) < 1e-5
    assert relative_error(kps, wanted[2][0]) < 1e-5


def test_our_analyzer_loads_both_as_a_face_pack(recognizer, detector, tmp_path):
    onnx.save(recognizer[2], tmp_path / "recogniser.onnx")
    onnx.save(detector[2], tmp_path / "detector.onnx")
    analyzer = FaceAnalyzer(tmp_path)
    assert analyzer.det_sizes[0] == 640
