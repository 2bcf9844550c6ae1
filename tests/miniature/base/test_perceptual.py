"""The perceptual error."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from instantid_jax import embedded
from instantid_jax.errors import InputError
from miniature.base.perceptual import ACTIVATIONS, make_perceptual_error
from miniature.portraits import draw_random

RECOGNIZER = embedded.FACE_PACK / "recogniser.onnx"


@pytest.fixture(scope="module")
def pictures():
    drawn = [np.asarray(draw_random(seed, (112, 112)).image) for seed in range(2)]
    return np.stack(drawn).astype(np.float32) / 127.5 - 1


def test_features_match_onnxruntime(pictures):
    model = onnx.load(RECOGNIZER)
    names = [n.output[0] for n in model.graph.node if n.op_type == "Relu"][:ACTIVATIONS]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    crops = [{session.get_inputs()[0].name: p.transpose(2, 0, 1)[None]} for p in pictures]
    one, other = (session.run(names, crop) for crop in crops)
    wanted = np.mean([np.abs(a - b).mean() for a, b in zip(one, other, strict=True)])
    measured = jax.jit(make_perceptual_error(RECOGNIZER))(pictures[:1], pictures[1:])
    np.testing.assert_allclose(measured, wanted, rtol=1e-3)


def test_measures_blur_in_windows_of_other_sizes(pictures):
    error = jax.jit(make_perceptual_error(RECOGNIZER))
    window = jnp.asarray(pictures[:, 20:84, 20:84])
    blurred = jax.image.resize(window[:, ::2, ::2], window.shape, "linear")
    assert error(window, window) == 0
    assert error(window, blurred) > 0.02
    assert np.abs(jax.grad(error)(blurred, window)).max() > 0


def test_rejects_other_files():
    with pytest.raises(InputError, match="no such file"):
        make_perceptual_error(RECOGNIZER.with_name("missing.onnx"))
    with pytest.raises(InputError, match="is not a recognizer"):
        make_perceptual_error(embedded.FACE_PACK / "detector.onnx")
