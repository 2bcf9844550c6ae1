"""`instantid styles`, and `generate --style`: words are added to prompts and recorded."""

import json
import re

import pytest
from PIL import Image

from instantid_jax.request.provenance import Provenance
from instantid_jax.request.styles import STYLES, find_style

SNOW, NEON = find_style("Snow"), find_style("Neon")


@pytest.fixture
def generate(run, recorder, face_file):
    def call(*arguments):
        return run("generate", "--output", "o.png", *arguments)

    return call


def recorded(path="o.png") -> tuple[str | None, str | None]:
    request = Provenance.read(path).request
    return request.prompt, request.negative_prompt


def test_names_and_texts_are_listed(run, tmp_path):
    lines = run("styles").out
    assert [line for line in lines if not line.startswith(" ")] == [s.name for s in STYLES]
    assert f"  prompt: {SNOW.prompt}" in lines
    assert f"  negative prompt: {SNOW.negative_prompt}" in lines
    (tmp_path / "s.csv").write_text('name,prompt,negative_prompt\nOil,"two\nlines",\n')
    ran = run("styles", "--styles", "s.csv")
    assert ran.out == ["Oil", "  prompt: two\\nlines", *lines]
    assert run("styles", "--styles", "none.csv").err == ["instantid: error: none.csv: no such file"]


def test_the_words_are_added_logged_and_recorded(generate, recorder, face_file):
    ran = generate("--face", face_file, "--prompt", "a man", "--style", "snow")
    assert ran.status == 0
    expected = (SNOW.positive("a man"), SNOW.negative_prompt)
    assert recorded() == expected
    assert (recorder.requests[0].prompt, recorder.requests[0].negative_prompt) == expected
    assert ran.log == [f"style Snow: prompt {expected[0]!r}, negative prompt {expected[1]!r}"]
    with Image.open("o.png") as image:
        assert image.text["prompt"] == expected[0]
        style = json.loads(image.text["instantid"])["style"]
    assert style == {"name": "Snow", "prompt": "a man", "negative_prompt": None}


def test_styles_of_a_file(generate, face_file, tmp_path):
    (tmp_path / "s.json").write_text('[{"name": "Oil", "prompt": "oil", "negative_prompt": "x"}]')
    asked = ("--face", face_file, "--prompt", "a man", "--negative-prompt", "hat")
    assert generate(*asked, "--styles", "s.json", "--style", "oil").status == 0
    assert recorded() == ("a man, oil", "x, hat")
    assert generate(*asked, "--styles", "s.json", "--style", "neon").status == 0
    assert recorded() == (NEON.positive("a man"), NEON.negative("hat"))


def test_like_with_another_style_replaces_the_words(generate, face_file):
    generate(
        "--face", face_file, "--prompt", "a man", "--negative-prompt", "hat", "--style", "snow"
    )
    snow = (SNOW.positive("a man"), SNOW.negative("hat"))
    # Its words stay without a style, and are not added again with the same one.
    for arguments in ((), ("--style", "Snow"), ("--seed", 3)):
        assert generate("--like", "o.png", *arguments).status == 0
        assert recorded() == snow
    assert generate("--like", "o.png", "--style", "neon").status == 0
    assert recorded() == (NEON.positive("a man"), NEON.negative("hat"))
    assert generate("--like", "o.png", "--prompt", "a woman").status == 0
    assert recorded() == ("a woman", NEON.negative("hat"))
    assert "style" not in Provenance.read("o.png").facts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--style", "film noire"), "did you mean Film Noir"),
        (("--style", "snow", "--styles", "none.csv"), "none.csv: no such file"),
        (("--styles", "me.npz"), r"me.npz is not UTF-8"),
    ],
)
def test_unknown_styles_are_refused(generate, recorder, face_file, arguments, message):
    ran = generate("--face", face_file, "--prompt", "x", *arguments)
    assert ran.status == 2 and len(ran.err) == 1 and re.search(message, ran.err[0])
    assert not recorder.requests
