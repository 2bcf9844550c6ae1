"""The nodes on the embedded model."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui import local
from comfyui.face_nodes import AnalyzeFace, KeypointsPreview
from comfyui.model_nodes import Load
from instantid_jax import Face, InputError, InstantIDPipeline, embedded
from instantid_jax.face.keypoints import draw_keypoints
from instantid_jax.images import read_image
from instantid_jax.request import Request
from tests.comfyui.comfy_stand_in import Interrupted
from tests.comfyui.conftest import defaults
from tests.pipeline import small_model

# One size and no guidance, so that all tests share their programs.
SMALL = {"width": 64, "height": 64, "steps": 2, "cfg": 1.0, "batch_size": 2}


@pytest.fixture(scope="session")
def pipe(miniature) -> InstantIDPipeline:
    return miniature.pipeline()


@pytest.fixture(scope="session")
def face(miniature, portrait) -> Face:
    inputs = {"image": portrait, "combine_embeds": "average"}
    return AnalyzeFace.execute(miniature, **inputs).args[0]


@pytest.fixture
def request_of(miniature, pipe, generate, monkeypatch):
    """Runs the Generate node without making images; returns the request."""
    asked = []

    def run(requests, observer):
        asked.extend(requests)
        image = Image.new("RGB", (8, 8))
        made = SimpleNamespace(to_text=dict)
        return SimpleNamespace(pil_images=[image], seeds=[0], provenance=[made])

    monkeypatch.setattr(pipe, "run", run)

    def call(**inputs) -> Request:
        generate(miniature, **inputs)
        return asked.pop()

    return call


def test_images_are_those_of_the_library(miniature, pipe, generate, portrait, host):
    images, provenance = generate(miniature, image=portrait, seed=5, **SMALL)
    face = pipe.analyze(embedded.PORTRAIT)
    request = Request(
        "a cartoon",
        face=face,
        seed=5,
        num_images_per_prompt=2,
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=1.0,
    )
    expected = pipe.run([request])
    np.testing.assert_array_equal(images, np.stack(expected.images) / np.float32(255))
    assert images.dtype == torch.float32
    made = json.loads(provenance)
    assert [each["seed"] for each in made] == [5, 6]
    assert [each | {"seed": None} for each in made] == [
        each.to_text({}) | {"seed": None} for each in expected.provenance
    ]
    assert [done for done, *_ in host.progress] == [1, 2] and host.unloaded


def test_a_face_stands_for_its_photos(miniature, generate, portrait, face):
    photos, faces = (
        generate(miniature, seed=1, **SMALL, **given)[0]
        for given in ({"image": portrait}, {"face": face})
    )
    assert torch.equal(photos, faces)


def test_windows_decide_at_which_steps_the_person_counts(miniature, generate, face):
    """Two steps, at the timesteps 999 and 499."""
    even = SMALL | {"sampler_name": "euler", "scheduler": "trailing"}
    whole, never, first, last = (
        generate(miniature, face=face, **even | changes)[0]
        for changes in (
            {},
            {"ip_weight": 0.0, "cn_strength": 0.0},
            {"end_at": 0.4},
            {"start_at": 0.4},
        )
    )
    made = [whole, never, first, last]
    assert not any(torch.equal(a, b) for i, a in enumerate(made) for b in made[:i])
    # No step lies in it.
    empty = generate(miniature, face=face, start_at=0.2, end_at=0.3, **even)[0]
    assert torch.equal(empty, never)


def test_canceling_ends_a_generation_and_the_next_one_runs(miniature, generate, face, host):
    host.interrupted = True
    with pytest.raises(Interrupted):
        generate(miniature, face=face, **SMALL)
    assert generate(miniature, face=face, **SMALL)[0].shape == (2, 64, 64, 3)


def test_both_strengths_have_the_same_window(request_of, face):
    asked = request_of(
        face=face, steps=10, sampler_name="euler", scheduler="trailing", start_at=0.2, end_at=0.7
    )
    windows = (
        (asked.ip_adapter_start, asked.ip_adapter_end),
        (asked.control_guidance_start, asked.control_guidance_end),
    )
    assert windows == ((0.2, 0.7), (0.2, 0.7))


def test_images_and_masks_have_their_names_in_the_request(request_of, face, portrait, pipe):
    gray = torch.full((1, 128, 128), 0.2)
    asked = request_of(
        face=face,
        source=1 - portrait,
        source_mask=gray,
        mask=gray / 2,
        image_kps=portrait,
        denoise=0.5,
    )
    pixels = read_image(embedded.PORTRAIT)
    np.testing.assert_array_equal(asked.image, 255 - pixels)
    assert (asked.mask_image == 51).all() and np.abs(asked.control_mask - 25.5).max() == 0.5
    np.testing.assert_array_equal(asked.pose.kps, pipe.analyze(pixels).kps)
    assert asked.strength == 0.5 and asked.kps_image is None


@pytest.mark.parametrize(
    "masks, message",
    [
        # Load Image's, of an image without transparency.
        ({"mask": torch.zeros(1, 64, 64)}, "mask is black, so nothing would count"),
        ({"source_mask": torch.zeros(1, 64, 64)}, "source_mask is black"),
        ({"source_mask": torch.ones(1, 64, 32)}, "source_mask has 32 x 64 pixels, source 128 x"),
        ({"source_mask": torch.ones(1, 8, 8), "source": None}, "source_mask without source"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, message, request_of, face, portrait):
    with pytest.raises(InputError, match=message):
        request_of(**{"face": face, "source": portrait} | masks)


def test_the_face_of_source_gives_the_keypoints_unless_others_are_given(request_of, face, portrait):
    moved = torch.roll(portrait, 8, dims=2)
    posed = request_of(face=face, source=moved)
    assert np.abs(posed.pose.kps - face.kps - (8, 0)).max() < 1
    drawn = torch.zeros(1, 64, 64, 3)
    asked = request_of(face=face, source=moved, kps_image=drawn)
    assert asked.pose is None and (asked.kps_image == 0).all()


def test_several_photos_are_one_person(request_of, portrait, pipe):
    asked = request_of(image=torch.cat([portrait, portrait.flip(2)]))
    pixels = read_image(embedded.PORTRAIT)
    faces = [pipe.analyze(each) for each in (pixels, np.ascontiguousarray(pixels[:, ::-1]))]
    np.testing.assert_array_equal(asked.face.embedding, Face.mean(faces).embedding)
    np.testing.assert_array_equal(asked.face.kps, faces[0].kps)


def test_what_is_not_a_drawn_portrait_is_refused(miniature, pipe, monkeypatch, portrait):
    def analyze(photo, face_pack):
        return small_model.person(0, det_score=0.9)

    monkeypatch.setattr(pipe, "analyze", analyze)
    with pytest.raises(InputError, match="does not look like a drawn portrait"):
        AnalyzeFace.execute(miniature, image=portrait, combine_embeds="average")


def test_the_face_pack_of_comfyui_is_taken(miniature, pipe, monkeypatch, portrait, tmp_path):
    packs = []

    def analyze(photo, face_pack):
        packs.append(face_pack)
        return small_model.person(0)

    monkeypatch.setattr(pipe, "analyze", analyze)
    monkeypatch.setattr(local, "find_face_pack", lambda name: tmp_path / name)
    AnalyzeFace.execute(miniature, image=portrait, combine_embeds="average")
    assert packs == [tmp_path / pipe.face_pack]


def test_keypoints_are_drawn_at_the_size_of_the_image(face):
    (drawn,) = KeypointsPreview.execute(face, width=192, height=256).args
    expected = draw_keypoints(256, 192, face.kps_for(256, 192))
    np.testing.assert_array_equal(drawn[0], expected / np.float32(255))
    assert KeypointsPreview.execute(face, width=0, height=0).args[0].shape == (1, 1024, 1024, 3)


@pytest.mark.parametrize(
    "size, message", [((64, 0), "give both"), ((0, 0), "does not say its photo's size")]
)
def test_keypoints_without_a_size_are_refused(size, message):
    with pytest.raises(InputError, match=message):
        KeypointsPreview.execute(small_model.person(0), *size)


def test_weights_are_named_as_comfyui_lists_them(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(local, "pipeline_of", loaded.append)
    Load.execute(
        **defaults(Load)
        | {"sdxl": " a/b ", "instantid": "c/d", "loras": "e/f:0.5\n\n g/h", "dtype": "float16"}
    )
    (weights,) = loaded
    assert (weights.sources.sdxl, weights.sources.instantid) == ("a/b", "c/d")
    assert weights.sources.loras == ("e/f:0.5", "g/h")
    assert (weights.dtype, weights.offload) == ("float16", False)


def test_weights_that_do_not_fit_are_the_load_nodes_error():
    with pytest.raises(InputError, match="give sdxl and instantid, or model alone"):
        Load.execute(**defaults(Load) | {"sdxl": "a/b"})
