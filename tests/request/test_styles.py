"""Styles: what they do to prompts, and which names are found."""

import logging

import pytest

from instantid_jax.errors import InputError
from instantid_jax.request.styles import STYLES, Style, find_style, with_style

SNOW = find_style("Snow")


def test_the_official_names_are_known():
    names = "Watercolor|Film Noir|Neon|Jungle|Mars|Vibrant Color|Snow|Line art"
    assert "|".join(style.name for style in STYLES) == names


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_texts_are_short_put_the_prompt_first_and_have_no_weights(style):
    assert style.positive("a man").startswith("a man, ")
    assert len(style.positive("").split()) <= 12 and len(style.negative_prompt.split()) <= 6
    for text in (style.positive(""), style.negative_prompt):
        assert text and not set("()[]{}|:\\") & set(text)
    negatives = [each.negative_prompt for each in STYLES if each != style]
    assert not all(style.negative_prompt in other for other in negatives)


@pytest.mark.parametrize(
    ("template", "prompt", "expected"),
    [
        ("{prompt}, oil", "a man", "a man, oil"),
        ("oil of {prompt}, {prompt}", "a {prompt}", "oil of a {prompt}, a {prompt}"),
        ("oil", "a man", "a man, oil"),
        (", oil", "a man, ", "a man, oil"),
        ("", "a man", "a man"),
        ("oil", "", "oil"),
        ("{prompt}, oil", "", "oil"),
        ("{prompt}", "", ""),
    ],
)
def test_where_the_prompt_goes(template, prompt, expected):
    assert Style("x", prompt=template).positive(prompt) == expected


@pytest.mark.parametrize(
    ("template", "prompt", "expected"),
    [
        ("photo", "blurry", "photo, blurry"),
        ("{prompt}, photo", "blurry", "blurry, photo"),
        ("photo", None, "photo"),
        ("{prompt}, photo", None, "photo"),
        ("", None, None),
        ("  ", "blurry", "blurry"),
        ("photo", "", "photo"),
    ],
)
def test_the_styles_words_come_before_a_negative_prompt(template, prompt, expected):
    assert Style("x", negative_prompt=template).negative(prompt) == expected


def test_upper_and_lower_case_are_alike():
    assert find_style("FILM noir ") is find_style("Film Noir")
    upper, lower = Style("OIL", "x"), Style("oil", "y")
    assert find_style("OIL", [upper, lower]) is upper
    assert find_style("oil", [upper, lower]) is lower


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("film noire", "style='film noire': no style has this name; did you mean Film Noir?"),
        ("film-noir", "did you mean Film Noir?"),
        ("xyz", "expected one of Watercolor, Film Noir, Neon, .*, Line art$"),
        ("", "style='': no style has this name; expected one of"),
        (3, "style=3: expected the name of a style"),
        (["Snow"], r"style=\['Snow'\]: expected the name"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(name, message):
    with pytest.raises(InputError, match=message):
        find_style(name)


def test_arguments_are_changed_and_logged(caplog):
    caplog.set_level(logging.INFO, "instantid_jax")
    given = {"prompt": ["a man", "a woman"], "negative_prompt": [None, "hat"], "seed": 3}
    styled = with_style("snow", given)
    assert styled["prompt"] == [SNOW.positive("a man"), SNOW.positive("a woman")]
    assert styled["negative_prompt"] == [SNOW.negative_prompt, f"{SNOW.negative_prompt}, hat"]
    assert styled["seed"] == 3 and given["prompt"] == ["a man", "a woman"]
    assert "style Snow: prompt ['a man, in falling snow" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "style='Snow' without a prompt"),
        ({"prompt": 3}, "prompt holds a int"),
        ({"prompt": "x", "negative_prompt": [3]}, "negative_prompt holds a int"),
    ],
)
def test_what_is_not_text_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        with_style("Snow", given)
