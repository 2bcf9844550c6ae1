"""The embedded model: small, complete, and rejecting photographs."""

import os
from pathlib import Path

import insightface
import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image

from instantid_jax import Face, InputError, embedded
from instantid_jax.components import component_shapes
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.pipeline.sources import Sources
from instantid_jax.weights.lora.merging import find_merge
from instantid_jax.weights.lora.sources import parse_loras
from miniature.portraits import draw_random

FILES = sorted(path for path in Path(embedded.__file__).parent.rglob("*") if path.is_file())


def test_is_small_enough_to_ship():
    sizes = {path: path.stat().st_size for path in FILES}
    assert max(sizes.values()) <= 15e6
    assert sum(size for path, size in sizes.items() if path.suffix == ".safetensors") <= 40e6


def test_is_found_like_a_published_model():
    model = Sources().find()
    names = {"unet", "vae", "text_encoder", "text_encoder_2", "ip_adapter", "image_proj"}
    assert model.components.keys() >= names
    for component in model.components.values():
        for value in jax.tree.leaves(component.load(np.dtype("float32"))):
            assert np.isfinite(value).all()


@pytest.fixture(scope="module")
def analyzer() -> FaceAnalyzer:
    return FaceAnalyzer(embedded.FACE_PACK)


def test_portrait_is_the_drawn_one():
    with Image.open(embedded.PORTRAIT) as portrait:
        np.testing.assert_array_equal(portrait, draw_random(900006).image)


def test_portraits_are_two_of_one_person_and_two_others(analyzer):
    first, *others = (analyzer.analyze(path) for path in embedded.PORTRAITS)
    likeness = [first.similarity(other) for other in others]
    assert likeness[0] > 0.8 and max(likeness[1:]) < 0.3


def test_accepts_drawn_portraits(analyzer):
    for seed in range(30):
        face = analyzer.analyze(draw_random(10_000 + seed).image)
        embedded.check_drawn(face, "a.png")


@pytest.mark.parametrize("name", ["astronaut", "t1"])
def test_rejects_photographs_with_advice(analyzer, name):
    photo = skimage.data.astronaut()
    if name == "t1":
        path = Path(os.path.dirname(insightface.__file__), "data", "images", "t1.jpg")
        photo = np.asarray(Image.open(path))
    with pytest.raises(
        InputError, match=r"me\.jpg does not look.*drawn portraits only.*--sdxl and --instantid"
    ):
        embedded.check_drawn(analyzer.analyze(photo), "me.jpg")


def test_accepts_faces_without_a_detector_score():
    embedded.check_drawn(Face(embedding=np.ones(512), kps=np.ones((5, 2))), "me.npz")


def test_its_lora_changes_every_layer_of_its_unet():
    parts = Sources().find().components
    merge = find_merge(parse_loras(["miniature-4"]), parts)
    assert not merge.names("text_encoder") and not merge.names("text_encoder_2")
    shapes = component_shapes("unet", parts["unet"].network)
    assert set(merge.names("unet")) == {name for name in shapes if name.endswith(".kernel")}
    assert embedded.LORAS["miniature-4"].stat().st_size < 3e6


def test_presets_need_their_weights():
    own = {"loras": ["miniature-4"]}
    Sources(**own).check_preset("miniature-4")
    with pytest.raises(InputError, match=r"without its LoRA: give loras=\['miniature-4'\]"):
        Sources().check_preset("miniature-4")
    for sources, preset in ((own, "lcm"), ({"sdxl": "a", "instantid": "b"}, "miniature-4")):
        with pytest.raises(InputError, match="is not for these weights"):
            Sources(**sources).check_preset(preset)
