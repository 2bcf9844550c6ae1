"""`instantid demo`, on the embedded model."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import skimage.data
from PIL import Image

from instantid_jax import Face, InstantIDPipeline, embedded
from instantid_jax.cli.demo import COLUMNS, LINE, PROMPTS, ROW, in_rows, similarity
from instantid_jax.face.analysis import FaceAnalyzer
from miniature.drawing.scene import (
    BACKGROUND_WORDS,
    EXPRESSION_WORDS,
    LIGHT_WORDS,
    STYLE_WORDS,
    Clothing,
    ColorName,
    random_scene,
)
from miniature.portraits import draw, draw_random

README = Path(__file__).parents[2] / "README.md"


def test_it_shows_a_person_in_other_pictures_and_how_alike_they_are(run):
    prompts = PROMPTS[:2]
    ran = run("demo", "--num-inference-steps", 12, "--guidance-scale", 3, "--prompts", *prompts)
    assert (ran.status, ran.err, ran.log) == (0, [], [embedded.NOTICE])
    assert ran.out[0].startswith("out/demo.png: ") and len(ran.out) == 3
    for line, prompt in zip(ran.out[1:], prompts, strict=True):
        assert line.endswith(prompt) and float(line.split()[0]) > 0.3
    with Image.open("out/demo.png") as sheet:
        assert sheet.size == (COLUMNS * ROW, ROW + LINE)
        assert sheet.text["prompt"] == "\n".join(prompts)
        made = json.loads(sheet.text["demo"])
        # No path of this machine.
        assert (made["settings"]["num_inference_steps"], made["face"]) == (12, [])
        photo, *pictures = np.split(np.asarray(sheet)[:ROW], 3, axis=1)
    with Image.open(embedded.PORTRAIT) as portrait:
        np.testing.assert_array_equal(photo, portrait.resize((ROW, ROW), Image.Resampling.LANCZOS))
    assert all(picture.std() > 20 for picture in pictures)


def test_help_and_readme_list_the_words_of_the_captions(run):
    def phrases(*scenes):
        return {part for words in scenes for part in words.values()}

    known = {*get_args(ColorName), *get_args(Clothing)}
    known |= phrases(STYLE_WORDS, BACKGROUND_WORDS, LIGHT_WORDS)
    known |= {phrase.split()[1] for phrase in EXPRESSION_WORDS.values()}
    shown = run("demo", "--help").out
    for text in (" ".join(shown), README.read_text()):
        flat = " ".join(text.split())
        assert not [each for each in known if each.format(color="a COLOR") not in flat]


@pytest.fixture
def drawn(recorder):
    """A pipeline that makes drawn portraits."""
    recorder.draw = lambda i: draw_random(i).image
    return recorder


def test_several_images_of_a_prompt_have_seeds_of_their_own(run, drawn):
    ran = run("demo", "--seed", 7, "--num-images-per-prompt", 2, "--prompts", "x", "y")
    assert ran.status == 0 and [request.seed for request in drawn.requests] == [7, 9]
    assert [line[-1] for line in ran.out[1:]] == ["x", "x", "y", "y"]


def test_fast_takes_the_embedded_models_lora(run, drawn):
    for arguments in (("--fast",), ("--fast", "miniature-4", "--lora", "miniature-4:0.9")):
        drawn.requests.clear()
        ran = run("demo", *arguments, "--prompts", "x")
        assert ran.status == 0, ran.err
        (request,) = drawn.requests
        assert (request.scheduler, request.num_inference_steps) == ("euler_trailing", 4)
        assert request.guidance_scale == 1.0
        assert drawn.weights["loras"] == (arguments[-1].replace("--fast", "miniature-4"),)


def test_additional_controlnets_are_refused(run, drawn):
    ran = run("demo", "--sdxl", "a", "--instantid", "b", "--controlnets", "c")
    assert ran.status == 2 and not drawn.requests
    assert ran.err == [
        "instantid: error: --controlnets need an image each: use `instantid generate`"
    ]


def test_similarity_tells_a_person_from_another():
    analyzer = FaceAnalyzer(embedded.FACE_PACK)
    first, other = draw_random(1), draw_random(2)
    again = draw(first.traits, random_scene(np.random.default_rng(3)))
    face = analyzer.analyze(first.image)
    assert similarity(face, first.image, analyzer) == pytest.approx(1)
    assert similarity(face, again.image, analyzer) > 0.6
    assert similarity(face, other.image, analyzer) < 0.4
    assert similarity(face, Image.new("RGB", (128, 128)), analyzer) is None


def test_pictures_of_all_sizes_stand_in_rows(monkeypatch):
    monkeypatch.setattr("instantid_jax.cli.demo.ROW", 200)
    photo = Image.new("RGB", (100, 400), "red")
    pictures = [Image.new("RGB", size, "blue") for size in ((300, 300), (150, 300))]
    sheet = np.asarray(in_rows([photo, *pictures], ["photo", "0.5", "no face"]))
    assert sheet.shape == (300 + LINE, 75 + 300 + 150, 3)
    assert (sheet[:300, :75] == (255, 0, 0)).all() and (sheet[:300, 75:] == (0, 0, 255)).all()
    line = sheet[300:]
    assert all((part != 255).any() for part in np.split(line, (75, 375), axis=1))

    more = in_rows([photo] * (COLUMNS + 1), ["photo"] * (COLUMNS + 1))
    assert more.size == (COLUMNS * 100, 2 * (400 + LINE))
    first, second = np.split(np.asarray(more), 2)
    np.testing.assert_array_equal(first[:, :100], second[:, :100])
    assert (second[:, 100:] == 255).all()


BAD = {
    "output": (("--output", "demo.gif"), "--output demo.gif: expected a name ending in .png"),
    "no prompt": (("--prompts",), "no prompts: give at least one"),
    "a face file": (("--face", "me.npz"), "me.npz cannot be shown"),
    "a photograph": (
        ("--face", "astronaut.png"),
        "astronaut.png does not look like a drawn portrait",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_anything_is_computed(run, tmp_path, monkeypatch, case):
    flags, message = BAD[case]
    monkeypatch.setattr(InstantIDPipeline, "load", lambda **_: pytest.fail("weights are loaded"))
    Face(embedding=np.ones(512), kps=np.ones((5, 2))).save("me.npz")
    Image.fromarray(skimage.data.astronaut()).save("astronaut.png")
    before = sorted(tmp_path.rglob("*"))
    ran = run("demo", *flags)
    assert ran.status == 2 and len(ran.err) == 1 and ran.log == []
    assert ran.err[0].startswith(f"instantid: error: {message}")
    assert sorted(tmp_path.rglob("*")) == before
