import dataclasses
import importlib.metadata
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instantid_jax import Face, InstantIDPipeline
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.request import Request, Settings
from instantid_jax.request.block_scales import BlockScales, plain
from tests.pipeline import small_model
from tests.runs.trained_run import assert_same_bits, part_of, write_run

# Faces of a photo of 128 x 256 pixels: top, left, side, identity.
LEFT = (20, 20, 52, 1)
RIGHT = (40, 150, 50, 2)
SMALL = (80, 30, 26, 3)
FAST = ("--num-inference-steps", 2)


@pytest.fixture(scope="session")
def pipe(model):
    return InstantIDPipeline.load(sdxl=model, instantid=model)


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_a_face_file_and_a_prompt_make_the_pipelines_picture(run, pipe, weights, face_file, person):
    asked = ("--face", face_file, "--prompt", "rain", "--output", "a/out.png")
    ran = run("generate", *asked, *weights, *FAST)
    assert (ran.status, ran.out, ran.err, ran.log) == (0, ["a/out.png"], [], [])
    picture = pipe("rain", face=person, num_inference_steps=2).images[0]
    np.testing.assert_array_equal(pixels("a/out.png"), np.asarray(picture))
    assert picture.size == small_model.SIZE[::-1]


def test_an_image_records_how_it_was_made(run, model, weights, face_file):
    asked = ("--face", face_file, "--prompt", "雨", "--output", "out.png", "--seed", 7)
    chosen = ("--negative-prompt", "snow", "--ip-adapter-scale", 1, "--guess-mode")
    ran = run("generate", *asked, *chosen, *weights, *FAST)
    assert ran.status == 0
    with Image.open("out.png") as image:
        assert image.text["prompt"] == "雨"
        recorded = json.loads(image.text["instantid"])
        parameters = image.text["parameters"]
    expected = {
        "seed": 7,
        "negative_prompt": "snow",
        "ip_adapter_scale": 1.0,
        "guess_mode": True,
        "num_inference_steps": 2,
        "scheduler": None,
        "guidance_scale": 5.0,
        "height": 64,
    }
    assert recorded["request"].items() >= expected.items()
    assert recorded["weights"]["sdxl"] == model and recorded["weights"]["model"] is None
    assert recorded["scheduler"] == "EulerDiscreteScheduler" and recorded["dtype"] == "float32"
    assert recorded["version"] == importlib.metadata.version("instantid-jax")
    assert recorded["face_files"] == [str(face_file)] and recorded["face_pack"] == "antelopev2"
    assert re.fullmatch("[0-9a-f]{16}", recorded["weights_hash"])
    assert parameters.splitlines()[:2] == ["雨", "Negative prompt: snow"]
    assert "Steps: 2, Sampler: Euler, CFG scale: 5.0, Seed: 7, Size: 128x64" in parameters


def test_several_images_are_numbered_and_record_seeds_of_their_own(run, face_file, recorder):
    asked = ("--num-images-per-prompt", 2, "--seed", 5)
    ran = run("generate", "--face", face_file, "--prompt", "x", "--output", "a/out.png", *asked)
    assert ran.out == ["a/out-1.png", "a/out-2.png"]
    for i, path in enumerate(ran.out):
        assert Request.from_image(path).seed == 5 + i
        assert (pixels(path) == (i, 0, 0)).all()


def test_photos_are_analysed_averaged_and_posed(run, pipe, weights, photo, pack):
    """Two photos of a person and one whose pose counts, through insightface."""
    first, second = photo("a.png", LEFT), photo("b.png", RIGHT)
    pose = photo("pose.png", SMALL, RIGHT)
    ran = run(
        *("generate", "--face", first, second, "--pose", pose, "--face-pack", pack),
        *("--prompt", "rain", "--output", "out.png", *weights, *FAST),
    )
    assert ran.status == 0 and ran.err == []
    several, other = ran.log
    assert several == f"2 faces in {pose}: using the largest"
    assert other.startswith("a face was measured with the face pack synthetic, and the model was ")
    assert other.endswith(": measure the photo again with antelopev2")

    analyzer = FaceAnalyzer(pack)
    face = Face.mean([analyzer.analyze(first), analyzer.analyze(second)])
    arguments = {"face": face, "pose": analyzer.analyze(pose), "num_inference_steps": 2}
    picture = pipe("rain", **arguments).images[0]
    np.testing.assert_array_equal(pixels("out.png"), np.asarray(picture))


WEIGHTS = {
    "sdxl": "some/sdxl",
    "instantid": "some/instantid",
    "controlnets": ("some/one",),
    "loras": ("some/lora:0.5",),
    "embeddings": ("style=some/repository/a.safetensors", "some/embedding"),
    "vae": "some/vae",
    "unet": "some/repository/unet.safetensors",
    "refiner": "some/refiner",
    "tokenizers": "some/tokenizers",
    "variant": "fp16",
    "dtype": "bfloat16",
    "vae_dtype": "float32",
    "vae_tiling": 256,
    "offload": True,
}
SETTINGS = Settings(
    negative_prompt="b",
    prompt_2="c",
    negative_prompt_2="d",
    prompt_weighting=False,
    height=72,
    width=80,
    num_inference_steps=3,
    timesteps=(999, 500, 1),
    guidance_scale=3.5,
    guidance_rescale=0.7,
    guidance_rescale_v=0.6,
    guidance_interval=(0.28, 5.42),
    apg_eta=0.5,
    apg_threshold=15.0,
    mimic_scale=3.0,
    pag_scale=2.0,
    pag_adaptive_scale=0.001,
    pag_applied_layers=("mid", "up_blocks.0"),
    freeu=(0.9, 0.2, 1.3, 1.4),
    ip_adapter_scale={"down": 0.5, "up": {"block_0": [0, 1, 0]}},
    ip_adapter_start=0.1,
    ip_adapter_end=0.9,
    negative_id_noise=0.35,
    controlnet_conditioning_scale=(0.6, 0.5),
    control_guidance_start=0.1,
    control_guidance_end=(0.8, 0.9),
    guess_mode=True,
    clip_skip=1,
    original_size=(1, 2),
    crops_coords_top_left=(3, 4),
    target_size=(5, 6),
    negative_original_size=(7, 8),
    negative_crops_coords_top_left=(9, 10),
    negative_target_size=(11, 12),
    scheduler="ddim",
    eta=0.25,
    strength=0.5,
    mask_blur=3.0,
    padding_mask_crop=8,
    denoising_end=0.75,
    aesthetic_score=7.0,
    negative_aesthetic_score=1.5,
    seed=11,
    num_images_per_prompt=3,
)


def flags(values: dict) -> list:
    """The command line of these values."""
    made = []
    for name, value in values.items():
        if value is None:
            continue
        switch = isinstance(value, bool)
        value = json.dumps(plain(value)) if isinstance(value, BlockScales) else value
        rest = () if switch else value if isinstance(value, tuple) else (value,)
        flag = {"loras": "lora", "embeddings": "embedding"}.get(name, name.replace("_", "-"))
        made += [f"--no-{flag}" if value is False else f"--{flag}", *rest]
    return made


def test_every_setting_and_source_reaches_the_pipeline(run, face_file, recorder):
    # Timesteps and sigmas exclude each other, strength and denoising_start too.
    for field in dataclasses.fields(Settings):
        untried = getattr(SETTINGS, field.name) == field.default
        excluded = field.name in ("sigmas", "denoising_start")
        assert untried == excluded, f"{field.name} is not tried"
    for name in ("control", "image", "mask"):
        Image.new("RGB", (8, 8)).save(f"{name}.png")
    asked = ("--face", face_file, "--prompt", "a", "--output", "o.png")
    asked += ("--image", "image.png", "--mask-image", "mask.png", "--control-mask", "mask.png")
    per_net = {"control_images": ("control.png",), "control_masks": ("mask.png",)}
    given = flags(WEIGHTS | vars(SETTINGS) | per_net)
    ran = run("generate", *asked, *given, "--mesh", "guidance=2")
    assert (ran.status, ran.err) == (0, [])
    mesh = recorder.weights.pop("mesh")
    assert dict(mesh.shape) == {"data": 1, "guidance": 2, "rows": 1}
    assert recorder.weights == WEIGHTS | {"model": None, "raw": False}
    (request,) = recorder.requests
    assert request.settings == SETTINGS and request.prompt == "a"
    assert request.face.image_size == (64, 128) and request.pose is None
    assert request.control_images == ("control.png",)
    assert (request.control_mask, request.control_masks) == ("mask.png", ("mask.png",))
    assert (request.image, request.mask_image) == ("image.png", "mask.png")


def test_a_controlnet_is_off_without_an_image(run, face_file, recorder):
    Image.new("RGB", (8, 8)).save("a.png")
    asked = ("--face", face_file, "--prompt", "a", "--output", "o.png", "--sdxl", "some/sdxl")
    asked += ("--instantid", "some/instantid", "--controlnets", "some/one", "some/two")
    assert run("generate", *asked, "--control-images", "None", "a.png").status == 0
    assert recorder.requests[0].control_images == (None, "a.png")


@pytest.mark.parametrize("raw", [False, True])
def test_what_a_run_trained_is_taken(run, model, face_file, tmp_path, monkeypatch, raw):
    """And the step is logged."""
    unet = json.loads((Path(model) / "unet" / "config.json").read_text())
    saved = write_run(tmp_path / "trained", unet=unet)[3, raw]
    loaded = []

    def run_pipeline(pipe, requests, **_):
        loaded.append(pipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(InstantIDPipeline, "run", run_pipeline)
    ran = run(
        *("generate", "--sdxl", model, "--instantid", "trained", *(["--raw"] if raw else [])),
        *("--face", face_file, "--prompt", "x", "--output", "o.png"),
    )
    weights = "the raw parameters" if raw else "the moving average"
    assert (ran.status, ran.log) == (130, [f"trained: step 3, {weights}"])
    params = loaded[0].model.params
    assert_same_bits(params["controlnets"][0], part_of(saved, "controlnet"))
    assert_same_bits(params["image_proj"], part_of(saved, "image_proj"))
    adapter = part_of(saved, "ip_adapter")
    assert_same_bits({name: params["unet"][name] for name in adapter}, adapter)
    assert (loaded[0].sources.instantid, loaded[0].sources.raw) == ("trained", raw)


@pytest.fixture
def bad(run, face_file, photo, pack, tmp_path, monkeypatch):
    """Runs `generate` with what a case names instead of good arguments, and no model to load."""
    monkeypatch.setattr(
        "instantid_jax.pipeline.pipeline.LoadedModel",
        lambda *_, **__: pytest.fail("weights are loaded"),
    )
    photo("nobody.png")
    (tmp_path / "words.jpg").write_text("not a picture")
    (tmp_path / "words.npz").write_text("not a face")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.png").mkdir()

    def call(**changed):
        arguments = {"face": face_file, "prompt": "x", "output": "out/o.png", "face-pack": pack}
        arguments |= {name.replace("_", "-"): value for name, value in changed.items()}
        flags = []
        for name, value in arguments.items():
            if value is not None:
                flags += [f"--{name}", *(value if isinstance(value, tuple) else (value,))]
        before = sorted(tmp_path.rglob("*"))
        ran = run("generate", *flags)
        assert sorted(tmp_path.rglob("*")) == before
        return ran

    return call


BAD = {
    "scheduler": ({"scheduler": "dpm2"}, "scheduler='dpm2': expected None or one of euler,"),
    "no such photo": ({"face": "nowhere.jpg"}, "nowhere.jpg: no such file"),
    "no such face file": ({"face": "nowhere.npz"}, "nowhere.npz: no such file"),
    "not a picture": ({"face": "words.jpg"}, "words.jpg is not an image"),
    "not a face": ({"face": "words.npz"}, "words.npz is not a face file"),
    "a folder": ({"face": "folder"}, "folder is a folder"),
    "nobody": ({"face": "nobody.png"}, "no face found in nobody.png"),
    "no pose": ({"pose": "nowhere.jpg"}, "nowhere.jpg: no such file"),
    "no face at all": ({"face": ()}, "no face: give --face"),
    "no prompt": ({"prompt": None}, "no prompt: give --prompt, or --like"),
    "several prompts": ({"prompt": "a AND b"}, "prompt has AND, which joins several prompts"),
    "alternatives": ({"negative_prompt": "[a|b]"}, r"negative_prompt has '\[a\|b\]', which alt"),
    "a missing pack": (
        {"face": "nobody.png", "face_pack": None, "sdxl": "folder", "instantid": "folder"},
        "face pack antelopev2 not found: .*--download-face-pack",
    ),
    "another format": ({"output": "out.gif"}, "--output out.gif: expected a name ending in .png"),
    "no suffix": ({"output": "out"}, r"ending in .png, .jpg, .jpeg or .webp$"),
    "output is a folder": ({"output": "folder.png"}, "folder.png is a folder"),
    "output in a file": ({"output": "words.jpg/o.png"}, "words.jpg is a file, expected a folder"),
    "size": ({"height": 100, "width": 100}, "height=100 must be a multiple of 8: use 96 or 104"),
    "half a size": ({"height": 64}, "give both or neither"),
    "no steps": ({"num_inference_steps": 0}, "num_inference_steps=0"),
    "no pictures": ({"num_images_per_prompt": 0}, "num_images_per_prompt=0"),
    "seed": ({"seed": -1}, "seed=-1: expected 0 to"),
    "guidance": ({"guidance_scale": "nan"}, "guidance_scale=nan"),
    "scale": ({"ip_adapter_scale": -1}, "ip_adapter_scale=-1"),
    "strengths of words": (
        {"ip_adapter_scale": "up"},
        "'up' is neither a number nor strengths of blocks: expected JSON such as",
    ),
    "strengths of unknown parts": (
        {"ip_adapter_scale": '{"middle": 1}'},
        "ip_adapter_scale has 'middle': expected down, mid, up",
    ),
    "two scales": ({"controlnet_conditioning_scale": (1, 1)}, "2 entries for 1 ControlNets"),
    "window": ({"control_guidance_start": 1}, "must be below"),
    "micro-conditioning": ({"original_size": (1, 99999)}, "original_size=99999|99999"),
    "a control picture too many": ({"control_images": "nobody.png"}, "--control-images has 1"),
    "a mask too many": ({"control_masks": "nobody.png"}, "--control-masks has 1"),
    "no such mask": ({"control_mask": "nowhere.png"}, "nowhere.png: no such file"),
    "a control picture too few": ({"controlnets": "some/net"}, "--control-images has 0"),
    "both kinds of weights": (
        {"model": "folder", "sdxl": "folder", "instantid": "folder"},
        "give sdxl and instantid, or model alone",
    ),
    "half of the weights": ({"sdxl": "folder"}, "give sdxl and instantid, or model alone"),
    "half of the weights, whose face pack is not there": (
        {"face": "nobody.png", "face_pack": None, "instantid": "folder"},
        "give sdxl and instantid, or model alone",
    ),
    "like a file that is not there": ({"like": "no.png"}, "no.png: no such file"),
    "like an image without text": ({"like": "nobody.png"}, "does not say how it was made"),
    "raw of nothing": (
        {"raw": ()},
        "raw parameters of no instantid: only the folder of a training run",
    ),
    "raw of published weights": (
        {"sdxl": "folder", "instantid": "folder", "raw": ()},
        "raw parameters of folder: only the folder of a training run",
    ),
    "the other half of the weights": (
        {"instantid": "folder"},
        "give sdxl and instantid, or model alone",
    ),
    "raw of a converted model": ({"model": "folder", "raw": ()}, "raw parameters of no instantid"),
    "not SDXL": ({"sdxl": "folder", "instantid": "folder"}, "expected SDXL in diffusers' layout"),
    "no converted model": ({"model": "folder"}, "python -m convert to-jax"),
    "a folder that is not there": ({"sdxl": "./no", "instantid": "folder"}, "./no"),
    "a hub without a network": (
        {"sdxl": "some/sdxl", "instantid": "some/instantid"},
        "some/sdxl.*HF_HUB_OFFLINE",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(bad, case):
    arguments, message = BAD[case]
    ran = bad(**arguments)
    assert ran.status == 2 and ran.out == []
    assert len(ran.err) == 1 and ran.err[0].startswith("instantid: error: ")
    assert re.search(message, ran.err[0]), ran.err[0]


@pytest.mark.parametrize("output", ["pipe.png", "/proc/x.png", "/proc/sub/x.png"])
def test_an_output_that_cannot_be_written_is_refused_before_weights(bad, output):
    os.mkfifo("pipe.png")
    ran = bad(output=output)
    assert ran.status == 2 and len(ran.err) == 1
    assert re.search("is not a file that can be replaced|cannot be written to", ran.err[0])


@pytest.mark.parametrize(
    "arguments", [{"dtype": "int8"}, {"seed": "x"}, {"output": None}, {"fase": "x"}]
)
def test_usage_errors_are_the_parsers(bad, arguments):
    ran = bad(**arguments)
    assert ran.status == 2 and "--help" in "\n".join(ran.err)


def test_an_embedding_of_another_pack_is_refused(run, tmp_path):
    small_model.person(0, embedding=np.ones(256)).save("other.npz")
    ran = run("generate", "--face", "other.npz", "--prompt", "x", "--output", "o.png")
    assert ran.status == 2 and "256 numbers: the adapter expects 512" in ran.err[0]
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    "option", ["--face", "--lora", "--embedding", "--controlnets", "--timesteps"]
)
def test_an_option_of_several_values_is_given_once(run, face_file, option):
    """The parser would drop the values of the first."""
    asked = ("--face", face_file, "--prompt", "x", "--output", "o.png")
    ran = run("generate", *asked, option, "1", f"{option}=2")
    times = 3 if option == "--face" else 2
    assert ran.status == 2 and ran.err == [
        f"instantid: error: {option} is given {times} times: give it once, with all its values "
        "after it"
    ]


def test_the_last_of_a_repeated_single_value_counts(run, face_file, recorder):
    asked = ("--face", face_file, "--prompt", "x", "--output", "o.png")
    assert run("generate", *asked, "--seed", 1, "--seed", 2).status == 0
    assert recorder.requests[0].seed == 2
