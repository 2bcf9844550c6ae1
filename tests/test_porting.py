"""The calls of docs/porting.md on a small model; official names and files stand for it."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instantid_jax import InstantIDPipeline
from tests.pipeline import small_model
from tests.pipeline.small_model import person

PAGE = Path(__file__).parents[1] / "docs" / "porting.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
BLOCK = re.compile(r"^```python weights\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Smaller than SDXL's, and fewer steps; each is a number that the page has.
SMALLER = {"1024": "128", "30": "2"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model.write(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def calls(model, monkeypatch, tmp_path):
    """The arguments of each call, with the small model in place of every other."""
    monkeypatch.chdir(tmp_path)
    for name in ("face.jpg", "pose.jpg", "depth.png"):
        noise = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
        Image.fromarray(noise).save(name)
    load, call, made = InstantIDPipeline.load, InstantIDPipeline.__call__, []

    def load_small(sdxl, controlnets=()):
        nets = [f"{model}/ControlNetModel" for _ in controlnets]
        return load(sdxl=model, instantid=model, controlnets=nets)

    def analyze(pipe, photo):
        with Image.open(photo) as image:
            size = image.size[::-1]
        return person(len(str(photo)), image_size=size, bbox=np.array([10.0, 20, 60, 62]))

    def recorded(pipe, prompt, **arguments):
        result = call(pipe, prompt, **arguments)
        made.append((arguments, result))
        return result

    monkeypatch.setattr(InstantIDPipeline, "load", load_small)
    monkeypatch.setattr(InstantIDPipeline, "analyze", analyze)
    monkeypatch.setattr(InstantIDPipeline, "set_loras", lambda pipe, loras: None)
    monkeypatch.setattr(InstantIDPipeline, "__call__", recorded)
    monkeypatch.setattr("instantid_jax.pipeline.sources.Sources.check_preset", lambda *_: None)
    return made


def run(section: str) -> None:
    names = {"InstantIDPipeline": InstantIDPipeline}
    (code,) = BLOCK.findall(section)
    for number, smaller in SMALLER.items():
        code = re.sub(rf"(?<==){number}\b", smaller, code)
    exec(compile(code, str(PAGE), "exec"), names)


def section(title: str) -> str:
    (found,) = (each for each in SECTIONS if each.startswith(title))
    return found


def test_every_script_has_both_calls():
    titles = [each.splitlines()[0] for each in SECTIONS]
    assert titles == ["infer_full.py", "infer_img2img.py", "The demo"]
    for each in SECTIONS:
        assert each.count("```python official") == each.count("```python weights") == 1


def test_infer_full(calls):
    run(section("infer_full.py"))
    ((arguments, result),) = calls
    assert Path("result.jpg").exists()
    assert result.latents.shape == (1, 8, 16, 4)
    assert arguments["controlnet_conditioning_scale"] == [0.8, 0.8]


def test_infer_img2img(calls):
    run(section("infer_img2img.py"))
    ((arguments, result),) = calls
    assert arguments["strength"] == 0.85 and result.images[0].size == (128, 64)


def test_the_demo(calls):
    run(section("The demo"))
    (arguments, result), (fast, quick) = calls
    assert arguments["style"] == "Film Noir" and result.images[0].size == (128, 128)
    assert result.provenance[0].request.prompt.startswith("a man, film noir")
    assert fast["fast"] == "lcm" and quick.provenance[0].request.scheduler == "lcm"
