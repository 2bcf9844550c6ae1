"""`instantid generate` without weights: the embedded model, its face pack, and what it refuses."""

import inspect
import json

import numpy as np
import pytest
import skimage.data
from PIL import Image

from instantid_jax import InstantIDPipeline, embedded
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.pipeline import Result
from tests.pipeline import small_model

ASKED = ("generate", "--prompt", "a cartoon", "--output", "o.png")


@pytest.fixture
def loaded(monkeypatch):
    """What `load` and the pipeline are called with."""
    called = {}

    def load(**weights):
        called.update(weights)

        def make(prompt, **arguments):
            called.update(arguments)
            return Result([Image.new("RGB", (8, 8))], latents=None, seeds=[0])

        return make

    monkeypatch.setattr(InstantIDPipeline, "load", load)
    return called


def test_a_drawn_portrait_is_measured_by_the_models_own_pack(run, loaded):
    ran = run(*ASKED, "--face", embedded.PORTRAIT)
    assert (ran.status, ran.out, ran.log) == (0, ["o.png"], [embedded.NOTICE])
    assert loaded["sdxl"] == str(embedded.SDXL)
    assert loaded["instantid"] == str(embedded.INSTANTID)
    assert loaded["guidance_scale"] == embedded.GUIDANCE_SCALE
    assert (loaded["ip_adapter_scale"], loaded["controlnet_conditioning_scale"]) == (0.8, 0.8)
    face = FaceAnalyzer(embedded.FACE_PACK).analyze(embedded.PORTRAIT)
    np.testing.assert_array_equal(loaded["face"].embedding, face.embedding)
    with Image.open("o.png") as image:
        assert json.loads(image.text["instantid"])["sdxl"] is None


def test_a_photograph_may_give_the_pose(run, loaded):
    Image.fromarray(skimage.data.astronaut()).save("pose.png")
    ran = run(*ASKED, "--face", embedded.PORTRAIT, "--pose", "pose.png")
    assert ran.status == 0 and loaded["pose"].image_size == (512, 512)


def test_photographs_are_refused(run, loaded):
    Image.fromarray(skimage.data.astronaut()).save("me.png")
    ran = run(*ASKED, "--face", embedded.PORTRAIT, "me.png")
    assert ran.status == 2 and not loaded
    (line,) = ran.err
    assert line.startswith("instantid: error: me.png: its face is no drawn portrait's")


def test_a_photograph_without_a_face_is_told_what_the_model_is_for(run, loaded):
    Image.new("RGB", (256, 256), "gray").save("wall.png")
    ran = run(*ASKED, "--face", "wall.png")
    assert ran.status == 2 and not loaded
    (line,) = ran.err
    assert line.startswith("instantid: error: no face found in wall.png")
    assert line.endswith(embedded.ADVICE)


def test_a_face_that_another_pack_measured_is_refused(run, loaded):
    small_model.person(0, image_size=(64, 128), det_score=0.9).save("me.npz")
    ran = run(*ASKED, "--face", "me.npz")
    assert ran.status == 2 and ran.err[0].startswith("instantid: error: me.npz: ") and not loaded


def test_named_weights_take_any_face(run, loaded):
    small_model.person(0, image_size=(64, 128), det_score=0.9).save("me.npz")
    ran = run(*ASKED, "--face", "me.npz", "--sdxl", "a", "--instantid", "b")
    assert (ran.status, ran.log) == (0, []) and loaded["sdxl"] == "a"


def test_without_told_strengths_real_weights_take_the_pipelines_own(run, loaded):
    small_model.person(0, image_size=(64, 128)).save("me.npz")
    own = inspect.signature(InstantIDPipeline.__call__).parameters
    ran = run(*ASKED, "--face", "me.npz", "--model", "m", "--guidance-scale", 3)
    assert ran.status == 0 and loaded["guidance_scale"] == 3
    for name in ("ip_adapter_scale", "controlnet_conditioning_scale"):
        assert loaded[name] == own[name].default
    run(*ASKED, "--face", "me.npz", "--model", "m")
    assert loaded["guidance_scale"] == own["guidance_scale"].default
