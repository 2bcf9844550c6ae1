"""Image files record how an image was made, and are read back."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from instantid_jax import Face
from instantid_jax.errors import InputError
from instantid_jax.image_files import save_image
from instantid_jax.request import Request
from instantid_jax.request.provenance import CHUNK, Provenance
from instantid_jax.request.webui import read_parameters, write_parameters

FACTS = {"version": "0.1", "scheduler": "EulerDiscreteScheduler", "weights_hash": "abc"}
REQUEST = Request(
    "雨, rain",
    face=Face(
        embedding=np.random.default_rng(0).standard_normal(512),
        kps=np.arange(10).reshape(5, 2) / 3,
        image_size=(40, 30),
        det_score=0.9,
    ),
    pose=Face(embedding=np.full(512, 2.0), kps=np.ones((5, 2))),
    negative_prompt="blurry",
    height=64,
    width=72,
    guidance_scale=5.5,
    controlnet_conditioning_scale=(0.5, 0.25, 0.5),
    ip_adapter_scale={"mid": 0.5, "up": {"block_0": [0, 1, 0]}},
    control_images=("one.png", None),
    control_mask="mask.png",
    control_masks=(None, "other.png"),
    seed=7,
    num_images_per_prompt=4,
)


def write(path, provenance: Provenance, **changed: str) -> None:
    chunks = PngInfo()
    for name, value in (provenance.to_text({}) | changed).items():
        chunks.add_text(name, value)
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunks)


@pytest.mark.parametrize("path", ["a.png", "a.jpg", "a.webp"])
def test_a_request_survives_a_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    provenance = Provenance(REQUEST, image=2, position=1, requests=3, facts=FACTS)
    save_image(np.zeros((8, 8, 3), np.uint8), path, text=provenance.to_text({}))
    found = Provenance.read(path)
    assert (found.image, found.position, found.requests) == (2, 1, 3)
    assert found.facts == FACTS and found.row == 6 and len(found.batch) == 3
    assert found.request.settings == REQUEST.settings and found.request.prompt == REQUEST.prompt
    for name in ("face", "pose"):
        ours, theirs = getattr(found.request, name), getattr(REQUEST, name)
        np.testing.assert_array_equal(ours.embedding, theirs.embedding)
        np.testing.assert_array_equal(ours.kps, theirs.kps)
        assert (ours.image_size, ours.det_score) == (theirs.image_size, theirs.det_score)
    assert found.request.control_images == (str(tmp_path / "one.png"), None)
    assert found.request.control_masks == (None, str(tmp_path / "other.png"))
    assert found.request.control_mask == str(tmp_path / "mask.png")


def test_without_our_record_a_jpeg_is_read_as_the_web_uis(tmp_path, caplog):
    """As long as a prompt is, the image is written, and what fits with it."""
    long = dataclasses.replace(REQUEST, prompt="雨" * 25_000)
    text = Provenance(long, facts=FACTS).to_text({})
    save_image(np.zeros((8, 8, 3), np.uint8), tmp_path / "a.jpg", text=text)
    assert "a.jpg does not record 'instantid': it is longer" in caplog.text
    request = Request.from_image(tmp_path / "a.jpg", face=REQUEST.face)
    assert (request.prompt, request.seed, request.width) == (long.prompt, 7, 72)


def test_from_image_is_the_request_of_that_image_alone(tmp_path):
    write(tmp_path / "a.png", Provenance(REQUEST, image=2, facts=FACTS))
    request = Request.from_image(tmp_path / "a.png")
    assert (request.seed, request.num_images_per_prompt) == (9, 1)
    other = Face(embedding=np.full(512, 3.0), kps=np.zeros((5, 2)))
    changed = Request.from_image(tmp_path / "a.png", face=other, seed=1)
    assert changed.face is other and changed.seed == 1 and changed.pose is not None


def test_what_is_not_recorded_must_be_given(tmp_path):
    latents = np.zeros((4, 8, 9, 4), np.float32)
    request = dataclasses.replace(REQUEST, latents=latents, control_images=(np.zeros((8, 8, 3)),))
    write(tmp_path / "a.png", Provenance(request, image=1, facts=FACTS))
    with pytest.raises(InputError, match="made with latents, which its file does not record"):
        Request.from_image(tmp_path / "a.png", control_images=())
    with pytest.raises(InputError, match="made with control_images, which"):
        Request.from_image(tmp_path / "a.png", latents=latents[1:2])
    given = Request.from_image(tmp_path / "a.png", latents=latents[1:2], control_images=("x.png",))
    assert given.latents.shape == (1, 8, 9, 4)


def test_anonymous_images_do_not_say_who_is_shown(tmp_path):
    embedding = np.arange(1, 9, dtype=np.float32)
    face = Face(embedding, np.ones((5, 2)) * np.arange(5)[:, None] * 9)
    request = Request("a", face=face, pose=face, seed=4, height=64, width=64, guidance_scale=2.0)
    facts = {"version": "0", "scheduler": "euler"}
    text = Provenance(request, facts=facts).anonymous().to_text({})
    assert "embedding" not in text[CHUNK] and "Seed: 4" in text["parameters"]
    path = tmp_path / "out.png"
    save_image(Image.new("RGB", (8, 8)), path, text=text)
    for given in ({}, {"face": face}, {"pose": face}):
        with pytest.raises(InputError, match="which its file does not record"):
            Request.from_image(path, **given)
    again = Request.from_image(path, face=face, pose=face)
    assert again.settings == request.settings and not Provenance.read(path).has_person
    nobody = Provenance(Request("a", height=64, width=64, guidance_scale=2.0), facts=facts)
    assert nobody.anonymous().to_text({}) == nobody.to_text({})


def test_files_that_record_nothing_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    (tmp_path / "text.png").write_text("no image")
    write(tmp_path / "damaged.png", Provenance(REQUEST, facts=FACTS), instantid='{"request": 3}')
    for name, message in {
        "plain.png": "does not say how it was made",
        "photo.jpg": "does not say how it was made",
        "text.png": "cannot be read as an image",
        "damaged.png": "is damaged",
        "none.png": "no such file",
    }.items():
        with pytest.raises(InputError, match=message) as error:
            Provenance.read(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_value_that_is_recorded_wrongly_is_refused(tmp_path):
    provenance = Provenance(REQUEST, facts=FACTS)
    recorded = json.loads(provenance.to_text({})["instantid"])
    recorded["request"]["seed"] = -1
    write(tmp_path / "a.png", provenance, instantid=json.dumps(recorded))
    with pytest.raises(InputError, match="seed=-1"):
        Provenance.read(tmp_path / "a.png")


WEB_UI = """a man, (rain)
in the night
Negative prompt: blurry,
ugly
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 12, Size: 832x1216, \
Model hash: 31e35c80fc, Extra: "a, \\"b\\": c", Version: v1.10.1"""


def test_the_web_uis_parameters_are_read(tmp_path):
    chunks = PngInfo()
    chunks.add_text("parameters", WEB_UI)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    request = Request.from_image(tmp_path / "a.png", face=REQUEST.face)
    assert request.prompt == "a man, (rain)\nin the night"
    assert request.negative_prompt == "blurry,\nugly" and request.prompt_weighting
    assert (request.height, request.width, request.seed) == (1216, 832, 12)
    assert (request.num_inference_steps, request.guidance_scale) == (20, 7.0)
    assert request.scheduler == "dpmpp_2m_karras" and request.face is REQUEST.face


@pytest.mark.parametrize("weighting", [True, False])
def test_brackets_mean_what_they_meant(tmp_path, weighting):
    request = dataclasses.replace(SMALL, prompt="(a:1.2)", prompt_weighting=weighting)
    provenance = Provenance(request, facts=FACTS)
    write(tmp_path / "a.png", provenance)
    assert Request.from_image(tmp_path / "a.png").settings == request.settings
    # To the web UI too, and to those who read its text alone.
    parameters = provenance.to_text({})["parameters"]
    assert ("Emphasis: None" in parameters) != weighting
    assert Request(**read_parameters(parameters)).prompt_weighting == weighting
    # A file from before there were weights.
    recorded = json.loads(provenance.to_text({})["instantid"])
    del recorded["request"]["prompt_weighting"]
    write(tmp_path / "b.png", provenance, instantid=json.dumps(recorded))
    assert not Request.from_image(tmp_path / "b.png").prompt_weighting


@pytest.mark.parametrize("scheduler", ["euler", "euler_ancestral", "dpmpp_2m_karras", "unipc"])
def test_parameters_survive_the_web_uis_form(scheduler):
    settings = dataclasses.replace(REQUEST.settings, num_images_per_prompt=1)
    text = write_parameters("a: b, c", settings, scheduler, "1")
    assert read_parameters(text) == {
        "prompt": "a: b, c",
        "negative_prompt": "blurry",
        "scheduler": scheduler,
        "num_inference_steps": 30,
        "guidance_scale": 5.5,
        "seed": 7,
        "width": 72,
        "height": 64,
    }


def test_unknown_samplers_are_reported(caplog):
    assert read_parameters("a\nSteps: 3, Sampler: Heun")["scheduler"] == "heun"
    assert read_parameters("a\nSteps: 3, Sampler: DPM2")["scheduler"] is None
    assert "sampler 'dpm2' is not supported" in caplog.text
    with pytest.raises(InputError, match=r"expected \"Steps: 20"):
        read_parameters("a man")
    with pytest.raises(InputError, match="not a number"):
        read_parameters("a\nSteps: many")


SMALL = Request("x", height=64, width=64, guidance_scale=5.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"position": 7},
        {"image": 9},
        {"image": -1},
        {"requests": 100_000},
        {"requests": 0},
        {"weights": "abc"},
        {"style": "abc"},
        {"style": {"prompt": 3, "negative_prompt": None}},
        {"dtype": "foo"},
        {"request": 5},
    ],
)
def test_a_damaged_chunk_is_refused(tmp_path, changes):
    path = tmp_path / "a.png"
    text = Provenance(SMALL, facts=FACTS).to_text({})
    ours = json.loads(text[CHUNK]) | changes
    save_image(np.zeros((8, 8, 3), np.uint8), path, text={**text, CHUNK: json.dumps(ours)})
    with pytest.raises(InputError, match="'instantid' is damaged"):
        Provenance.read(path)


def test_deep_json_is_damage(tmp_path):
    path = tmp_path / "a.png"
    save_image(np.zeros((8, 8, 3), np.uint8), path, text={CHUNK: "[" * 100_000})
    with pytest.raises(InputError, match="'instantid' is damaged"):
        Request.from_image(path)


def test_facts_that_json_does_not_know_are_recorded_as_text():
    text = Provenance(SMALL, facts=FACTS).to_text({"path": Path("a.png")})
    assert json.loads(text[CHUNK])["path"] == "a.png"


def test_requests_are_alike_only_if_they_are_the_same():
    first, second = Request("a"), Request("b")
    assert first != second and first == first and len({first, second, first}) == 2
    assert first.settings == second.settings


def measured(shift: float) -> Face:
    """Another measurement of the face in `REQUEST`."""
    face = REQUEST.face
    return dataclasses.replace(face, embedding=face.embedding + shift, kps=face.kps + shift)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"guidance_scale": None, "height": None, "width": None}, True),
        ({"face": measured(1e-5)}, True),
        ({"face": measured(0.5)}, False),
        ({"face": None}, False),
        ({"pose": None}, False),
        ({"prompt": "rain"}, False),
        ({"seed": 8}, False),
        ({"guidance_scale": 5}, False),
        ({"num_images_per_prompt": 3}, False),
        ({"control_images": ("two.png",)}, False),
        ({"image": "a.png"}, False),
    ],
)
def test_an_image_is_of_the_request_that_made_it(tmp_path, changes, same):
    write(tmp_path / "a.png", Provenance(REQUEST, image=1, facts=FACTS))
    found = Provenance.read(tmp_path / "a.png")
    assert found.is_of(dataclasses.replace(REQUEST, **changes)) == same


def test_the_pose_in_an_image_to_begin_with_is_not_asked_for(tmp_path):
    begun = dataclasses.replace(REQUEST, image="a.png")
    write(tmp_path / "a.png", Provenance(begun, facts=FACTS))
    assert Provenance.read(tmp_path / "a.png").is_of(dataclasses.replace(begun, pose=None))
