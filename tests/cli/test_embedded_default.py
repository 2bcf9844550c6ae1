"""`instantid generate` without weights: the embedded model, its face pack, and what it refuses."""

import numpy as np
import skimage.data
from PIL import Image

from instantid_jax import InstantIDPipeline, embedded
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.request import Settings
from tests.pipeline import small_model

ASKED = ("generate", "--prompt", "a cartoon", "--output", "o.png")


def test_a_drawn_portrait_is_measured_by_the_models_own_pack(run, recorder):
    ran = run(*ASKED, "--face", embedded.PORTRAIT)
    assert (ran.status, ran.out) == (0, ["o.png"])
    assert {recorder.weights[name] for name in ("sdxl", "instantid", "model")} == {None}
    (request,) = recorder.requests
    assert request.settings == Settings()
    face = FaceAnalyzer(embedded.FACE_PACK).analyze(embedded.PORTRAIT)
    np.testing.assert_array_equal(request.face.embedding, face.embedding)


def test_loaded_without_weights_it_is_the_embedded_model_in_python_too(caplog):
    pipe = InstantIDPipeline.load()
    assert embedded.NOTICE in [record.getMessage() for record in caplog.records]
    assert pipe.model.guidance_scale == 2.0 and pipe.sources.embedded
    face = FaceAnalyzer(embedded.FACE_PACK).analyze(embedded.PORTRAIT)
    np.testing.assert_array_equal(pipe.analyze(embedded.PORTRAIT).embedding, face.embedding)


def test_a_photograph_may_give_the_pose(run, recorder):
    Image.fromarray(skimage.data.astronaut()).save("pose.png")
    ran = run(*ASKED, "--face", embedded.PORTRAIT, "--pose", "pose.png")
    assert ran.status == 0 and recorder.requests[0].pose.image_size == (512, 512)


def test_photographs_are_refused(run, recorder):
    Image.fromarray(skimage.data.astronaut()).save("me.png")
    ran = run(*ASKED, "--face", embedded.PORTRAIT, "me.png")
    assert ran.status == 2 and not recorder.requests
    (line,) = ran.err
    assert line.startswith("instantid: error: me.png does not look like a drawn portrait")


def test_a_photograph_without_a_face_is_told_what_the_model_is_for(run, recorder):
    Image.new("RGB", (256, 256), "gray").save("wall.png")
    ran = run(*ASKED, "--face", "wall.png")
    assert ran.status == 2 and not recorder.requests
    (line,) = ran.err
    assert line.startswith("instantid: error: no face found in wall.png")
    assert line.endswith(embedded.ADVICE)


def test_a_face_that_another_pack_measured_is_refused(run, recorder):
    small_model.person(0, image_size=(64, 128), det_score=0.9).save("me.npz")
    ran = run(*ASKED, "--face", "me.npz")
    assert ran.status == 2 and not recorder.requests
    assert ran.err[0].startswith("instantid: error: me.npz does not look like a drawn portrait")


def test_named_weights_take_any_face(run, recorder):
    small_model.person(0, image_size=(64, 128), det_score=0.9).save("me.npz")
    ran = run(*ASKED, "--face", "me.npz", "--sdxl", "a/b", "--instantid", "c/d")
    assert (ran.status, ran.log) == (0, []) and recorder.weights["sdxl"] == "a/b"
