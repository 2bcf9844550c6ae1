"""The grammar of weights: examples of the web UI's documentation, and cases made by hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instantid_jax.errors import InputError
from instantid_jax.request import Request
from instantid_jax.request.prompt_weights import check_grammar, read_prompt

RUNS = {
    "normal text": [("normal text", 1)],
    "an (important) word": [("an ", 1), ("important", 1.1), (" word", 1)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        *(("a ", 1), ("house", 1.573), (" ", 1.1), ("on", 1), (" a ", 1.1), ("hill", 0.55)),
        *((", sun, ", 1.1), ("sky", 1.4641), (".", 1.1)),
    ],
    "[a]": [("a", 1 / 1.1)],
    "[[a] b": [("a", 1 / 1.21), (" b", 1 / 1.1)],
    "[(a)]b": [("ab", 1)],
    "(a (b:0) c)": [("a ", 1.1), ("b", 0), (" c", 1.1)],
    "(a:-1.5)(b:+.5)(c:2.)": [("a", -1.5), ("b", 0.5), ("c", 2)],
    "(a:b:1.2)": [("a:b", 1.2)],
    "(a: 1.2)": [("a: 1.2", 1.1)],
    "(a:1.2 )": [("a:1.2 ", 1.1)],
    "(a:1e1)": [("a:1e1", 1.1)],
    "a:1.2) b": [("a:1.2) b", 1)],
    "[a:1.2)": [("a:1.2)", 1 / 1.1)],
    "a) b] c": [("a) b] c", 1)],
    "(a [b) c]": [("a ", 1.1), ("b", 1), (" c", 1 / 1.1)],
    r"\\(a\\)": [("\\", 1), ("a\\", 1.1)],
    r"a\b \o/ \: \|": [(r"a\b \o/ \: \|", 1)],
    "(a:1.0) b (c:1)": [("a b c", 1)],
    "()a(:1.3)[]": [("a", 1)],
    "(a|b)": [("a|b", 1.1)],
    "[low quality: bad]": [("low quality: bad", 1 / 1.1)],
    "[a:b]": [("a:b", 1 / 1.1)],
    "[a|b": [("a|b", 1 / 1.1)],
    "[a:0.5": [("a:0.5", 1 / 1.1)],
    "[(a|b)]": [("a|b", 1)],
    r"\[a|b\] \[a:b:0.5\]": [("[a|b] [a:b:0.5]", 1)],
    "AND1 BAND and Break AND_": [("AND1 BAND and Break AND_", 1)],
    "(embedding:style:1.2)": [("embedding:style", 1.2)],
    "雨 (の:1.5)中": [("雨 ", 1), ("の", 1.5), ("中", 1)],
    "": [],
    "  \n": [("  \n", 1)],
}


def runs(prompt: str) -> list[tuple[str, object]]:
    (part,) = read_prompt("prompt", prompt, True)
    return [(run.text, pytest.approx(run.weight, rel=1e-6)) for run in part]


@pytest.mark.parametrize("prompt", RUNS)
def test_a_prompt_is_runs_of_equal_weight(prompt):
    assert runs(prompt) == RUNS[prompt]


BREAKS = {
    "a BREAK b": [[("a ", 1)], [(" b", 1)]],
    "BREAK a BREAK BREAK b\nBREAK": [[], [(" a ", 1)], [(" ", 1)], [(" b\n", 1)], []],
    "BREAKFAST aBREAK BREAK_ break": [[("BREAKFAST aBREAK BREAK_ break", 1)]],
    "(a BREAK b:1.2), c BREAK,d": [[("a ", 1.2)], [(" b", 1.2), (", c ", 1)], [(",d", 1)]],
}


@pytest.mark.parametrize("prompt", BREAKS)
def test_break_divides_a_prompt(prompt):
    parts = read_prompt("prompt", prompt, True)
    found = [[(run.text, pytest.approx(run.weight, rel=1e-6)) for run in part] for part in parts]
    assert found == BREAKS[prompt]


TIME = "which changes the prompt at a step and is not supported: give one prompt, or take brackets"
TURNS = "which alternates between prompts and is not supported: give one of them, or take brackets"
REFUSED = {
    "[a:b:0.25]": f"prompt has '[a:b:0.25]', {TIME}",
    "x [a: b : 10 ], y": f"prompt has '[a: b : 10 ]', {TIME}",
    "[a:.5]": TIME,
    "[a::3]": TIME,
    "[:a:1e1]": TIME,
    "[(a:1.2):[b]:0.5]": f"prompt has '[(a:1.2):[b]:0.5]', {TIME}",
    "([a:b:0.5]:1.2)": TIME,
    "[a|b]": f"prompt has '[a|b]', {TURNS}",
    "[a|b|]": TURNS,
    "[(a:1.1)|b]": TURNS,
    "[a [b|c]": TURNS,
    "a cat AND a dog": 'prompt has AND, which joins several prompts and is not supported: write "a',
    "a AND": "prompt has AND",
    "(AND:1.2)": "prompt has AND",
    "(a:1.2.3)": "prompt has the weight '1.2.3', which is not a number: write (words:1.2)",
    "(a:.)": "the weight '.'",
    f"(a:{'9' * 400})": "prompt has a weight of inf: expected about 0 to 2",
    f"(a:{'9' * 39})": "prompt has a weight of 1e+39",
}


@pytest.mark.parametrize("prompt", REFUSED)
def test_other_grammar_is_refused_in_one_line(prompt):
    with pytest.raises(InputError) as error:
        read_prompt("prompt", prompt, True)
    assert REFUSED[prompt] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("prompt", [*RUNS, *BREAKS, *REFUSED])
def test_without_weighting_a_prompt_is_literal(prompt):
    assert read_prompt("prompt", prompt, False) == (((prompt, 1.0),),)


@pytest.mark.parametrize("name", ["prompt", "prompt_2", "negative_prompt", "negative_prompt_2"])
def test_the_prompt_is_named(name):
    with pytest.raises(InputError, match=rf"^{name} has AND"):
        check_grammar(Request(**{name: "a AND b"}))
    check_grammar(Request(**{name: "a AND b"}, prompt_weighting=False))
    check_grammar(Request(**{name: "(a:1.2) [b]"}))


TEXT = st.text(st.characters(exclude_characters="()[]\\"), max_size=20)


@given(texts=st.lists(TEXT, max_size=5))
def test_text_without_brackets_is_itself(texts):
    prompt = " ".join(texts).replace("AND", "").replace("BREAK", "")
    assert runs(prompt) == ([(prompt, 1)] if prompt else [])


@given(texts=st.lists(TEXT.filter(str.strip), min_size=1, max_size=5))
def test_escaped_text_is_itself(texts):
    prompt = "(|[:])\\".join(texts).replace("AND", "").replace("BREAK", "")
    escaped = "".join(f"\\{c}" if c in "()[]\\" else c for c in prompt)
    assert runs(escaped) == [(prompt, 1)]


@given(
    prompt=st.lists(
        st.sampled_from(["a", "(", ")", "[", "]", ":1.5)", ":", "|", "\\", " ", "0.5", "BREAK"]),
        max_size=15,
    ).map("".join)
)
def test_any_brackets_are_read_or_refused(prompt):
    try:
        parts = read_prompt("prompt", prompt, True)
    except InputError as error:
        assert "\n" not in str(error)
        return
    for part in parts:
        assert all(run.text for run in part)
        assert all(one.weight != two.weight for one, two in itertools.pairwise(part))
