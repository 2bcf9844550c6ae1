"""`--like`: the image of a PNG made again, or with changes; and the presets of `--fast`."""

import inspect
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import load_file, save_file

from instantid_jax import InstantIDPipeline
from instantid_jax.cli.defaults import name_preset, with_named_defaults
from instantid_jax.cli.demo import demo
from instantid_jax.cli.generate import generate
from instantid_jax.request.provenance import Provenance
from tests.pipeline import small_model

FAST = ("--num-inference-steps", 2)


@pytest.fixture
def made(run, weights, face_file):
    """Makes images with the command; returns their files."""

    def make(*arguments) -> list[str]:
        asked = ("--face", face_file, "--prompt", "rain", "--output", "made.png")
        ran = run("generate", *asked, *weights, *FAST, *arguments)
        assert ran.status == 0, ran.err
        return ran.out

    return make


@pytest.fixture
def again(run):
    def make(path, *arguments) -> bytes:
        ran = run("generate", "--like", path, "--output", "again.png", *arguments)
        assert ran.status == 0, ran.err
        assert ran.out == ["again.png"]
        with open("again.png", "rb") as file:
            return file.read()

    return make


def contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.slow
def test_one_of_several_is_made_again_byte_by_byte(made, again):
    for path in made("--num-images-per-prompt", 3, "--seed", 5, "--scheduler", "euler_ancestral"):
        assert again(path) == contents(path)


def test_with_a_pose_and_two_controlnets(made, again, model, photo, pack):
    small_model.person(3, image_size=(64, 128)).save("pose.npz")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)).save("c.png")
    (path,) = made(
        *("--pose", "pose.npz", "--controlnets", f"{model}/ControlNetModel"),
        *("--control-images", "c.png", "--controlnet-conditioning-scale", 0.8, 0.4),
    )
    assert again(path) == contents(path)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_from_other_formats_to_the_byte(made, run, suffix):
    first, second = f"made.{suffix}", f"again.{suffix}"
    assert made("--output", first, "--seed", 3) == [first]
    ran = run("generate", "--like", first, "--output", second)
    assert (ran.status, ran.out) == (0, [second])
    assert contents(second) == contents(first)


def test_with_a_controlnet_that_was_off(made, again, model):
    (path,) = made("--controlnets", f"{model}/ControlNetModel", "--control-images", "none")
    assert again(path) == contents(path)


def test_one_of_a_batch(pipe_run, again):
    for path in pipe_run(["rain", "snow", "mars"]):
        assert again(path) == contents(path)


@pytest.mark.slow
def test_one_of_a_batch_with_longer_prompts(pipe_run, again):
    """The others of the batch are not recorded, only how long they were."""
    for path in pipe_run(["rain", "snow BREAK mars", "(ice:1.2)"]):
        assert again(path) == contents(path)


def test_brackets_of_an_older_version_are_literal(made, again):
    (path,) = made("--prompt", "(rain:1.5)", "--no-prompt-weighting")
    image = contents(path)
    assert again(path) == image
    with Image.open(path) as opened:
        recorded = json.loads(opened.text["instantid"])
        del recorded["request"]["prompt_weighting"], recorded["chunks"]
        info = PngInfo()
        info.add_text("instantid", json.dumps(recorded))
        opened.save("old.png", pnginfo=info)
    assert again("old.png") == image
    assert again("old.png", "--prompt-weighting") != image


@pytest.fixture
def pipe_run(model, tmp_path):
    """Saves a batch made in Python."""

    def make(prompts: list[str]) -> list[str]:
        pipe = InstantIDPipeline.load(sdxl=model, instantid=model)
        faces = [small_model.person(i, image_size=(64, 128)) for i in range(len(prompts))]
        result = pipe(prompts, face=faces, seed=range(len(prompts)), num_inference_steps=2)
        facts = {"face_files": None, "face_pack": None}
        return [str(path) for path in result.save(tmp_path / "batch.png", facts)]

    return make


def test_another_prompt_seed_or_face_is_another_image(made, again):
    (path,) = made("--negative-prompt", "snow")
    small_model.person(4, image_size=(64, 128)).save("other.npz")
    images = {again(path, *changes) for changes in ((), ("--seed", 9), ("--face", "other.npz"))}
    assert len(images) == 3 and contents(path) in images
    with Image.open("again.png") as image:
        assert "Negative prompt: snow" in image.text["parameters"]


def test_embeddings_are_recorded(made, again, run):
    widths = {"clip_l": 32, "clip_g": 64}
    rows = np.random.default_rng(0).standard_normal((2, 64), np.float32)
    save_file({name: rows[:, :width].copy() for name, width in widths.items()}, "a.safetensors")
    (path,) = made("--embedding", "bad=a.safetensors", "--negative-prompt", "bad")
    image = contents(path)
    assert again(path) == image
    assert again(path, "--embedding") != image


def test_without_a_person_a_face_is_asked_for(run, tmp_path):
    chunks = PngInfo()
    chunks.add_text("parameters", "a cartoon\nSteps: 3, Seed: 1, Size: 64x64")
    Image.new("RGB", (8, 8)).save("web.png", pnginfo=chunks)
    ran = run("generate", "--like", "web.png", "--output", "o.png")
    assert ran.status == 2 and "no face: give --face" in ran.err[0]


def test_other_weights_replace_those_recorded_and_are_reported(made, run, model):
    (path,) = made()
    shutil.copytree(model, "other")
    tensors = load_file("other/ip-adapter.safetensors")
    save_file({name: value * 2 for name, value in tensors.items()}, "other/ip-adapter.safetensors")
    other = ("--sdxl", model, "--instantid", "other")
    ran = run("generate", "--like", path, "--output", "o.png", *other)
    assert ran.status == 0
    assert ran.log == [f"{path} was made with other weights: this will be another image"]
    assert contents("o.png") != contents(path)


class TestPresets:
    def defaults(self, *args):
        command = with_named_defaults(demo, name_preset(args))
        return inspect.signature(command).parameters["settings"].default

    def test_a_preset_changes_the_defaults(self):
        settings = self.defaults("--fast", "tcd", "--seed", "3")
        assert (settings.scheduler, settings.num_inference_steps, settings.eta) == ("tcd", 4, 0.3)
        assert self.defaults("--fast=lightning-8").num_inference_steps == 8

    def test_without_a_name_it_is_the_embedded_models(self):
        assert name_preset(["--fast"]) == ["--fast", "miniature-4"]
        args = ["--fast", "--seed", "1"]
        assert name_preset(args) == ["--fast", "miniature-4", "--seed", "1"]
        assert name_preset(["--fast", "lcm", "--seed"]) == ["--fast", "lcm", "--seed"]
        assert self.defaults("--fast").scheduler == "euler_trailing"

    def test_a_preset_comes_after_a_recorded_image(self, made):
        (path,) = made("--scheduler", "ddim", "--eta", 0.5, "--guidance-scale", 3)
        command = with_named_defaults(generate, ["--like", path, "--fast", "dmd2"])
        settings = inspect.signature(command).parameters["settings"].default
        assert settings.timesteps == (999, 749, 499, 249)
        assert (settings.scheduler, settings.eta, settings.guidance_scale) == ("lcm", 0.0, 1.0)

    def test_other_numbers_of_steps_are_refused(self, run, weights, face_file):
        asked = ("--face", face_file, "--prompt", "rain", "--output", "made.png", *weights)
        for preset, steps in (("lightning-4", 8), ("dmd2", 6)):
            ran = run("generate", *asked, "--fast", preset, "--num-inference-steps", steps)
            assert ran.status == 2
            assert ran.err[-1].startswith(
                f"instantid: error: num_inference_steps={steps} with fast='{preset}': "
            )
        ran = run(
            "generate", *asked, "--fast", "lightning-8", "--lora", "my_4step_lora.safetensors"
        )
        assert "my_4step_lora.safetensors is made for 4 steps by its name" in ran.err[-1]

    def test_presets_go_with_their_weights(self, run, weights, face_file):
        asked = ("generate", "--face", face_file, "--prompt", "rain", "--output", "made.png")
        for arguments in ((*weights, "--fast"), ("--fast", "lcm")):
            ran = run(*asked, *arguments)
            assert ran.status == 2
            assert "the embedded model has miniature-4, others lightning-4, " in ran.err[-1]

    def test_a_preset_samples(self, made):
        (path,) = made("--fast", "tcd", "--guidance-scale", 1.5)
        settings = Provenance.read(path).request.settings
        # FAST in this file sets the number of steps.
        assert (settings.scheduler, settings.num_inference_steps) == ("tcd", 2)
        assert settings.guidance_scale == 1.5
