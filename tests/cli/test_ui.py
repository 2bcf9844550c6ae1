"""`instantid ui`: what is refused before anything is loaded."""

import importlib.util

import pytest

from instantid_jax import InstantIDPipeline

BAD = {
    "another host": (("--host", "0.0.0.0"), "--host 0.0.0.0 without tokens lets everybody in"),
    "no tokens": (("--token-file", "none.txt"), "none.txt"),
    "a size": (("--sizes", "100", "64"), "height=100 must be a multiple of 8"),
    "an output": (("--output", "file"), "--output: file is a file, expected a folder"),
    "a preset": (("--fast", "lcm"), "fast='lcm' is not for these weights"),
    "a port": (("--port", "70000"), "--port 70000: expected 0 to 65535"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_weights_are_loaded(run, tmp_path, monkeypatch, name):
    flags, message = BAD[name]
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(InstantIDPipeline, "load", lambda **_: pytest.fail("weights are loaded"))
    ran = run("ui", *flags)
    assert ran.status == 2 and len(ran.err) == 1 and message in ran.err[0]


def test_without_its_packages_it_names_the_extra(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ran = run("ui")
    assert ran.status == 2
    assert ran.err == [
        "instantid: error: packages that this command needs are missing (gradio): pip install "
        "'instantid-jax[ui]'"
    ]
