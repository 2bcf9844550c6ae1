"""`generate --prompts`: numbered files, each like a command's; what is there stays."""

import json
import re

import pytest
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.request.provenance import Provenance
from instantid_jax.request.styles import find_style
from tests.pipeline import small_model


@pytest.fixture
def asked(recorder, monkeypatch) -> list:
    """The requests that a pipeline was asked for."""
    requests, run = [], recorder.run

    def recording(each, **options):
        requests.extend(each)
        return run(each, **options)

    monkeypatch.setattr(recorder, "run", recording)
    return requests


@pytest.fixture
def generate(run, face_file, tmp_path):
    """Runs a file of prompts."""

    def call(prompts, *arguments, output="out", face=face_file):
        if isinstance(prompts, str):
            (tmp_path / "p.txt").write_text(prompts)
            prompts = "p.txt"
        who = () if face is None else ("--face", face)
        return run("generate", "--prompts", prompts, "--output", output, *who, *arguments)

    return call


def recorded(path):
    return Provenance.read(path).request


def test_lines_are_images_of_commands_of_their_own(run, weights, face_file, tmp_path):
    """On the small model: the same bytes, with one program for all."""
    (tmp_path / "p.txt").write_text('rain\n{"prompt": "snow", "seed": 4, "ip-adapter-scale": 1}\n')
    common = ("--face", face_file, "--num-inference-steps", 2, *weights)
    ran = run("generate", "--prompts", "p.txt", "--output", "out", *common)
    assert (ran.status, ran.out) == (0, ["out/0001.png", "out/0002.png"]), ran.err
    for number, flags in (
        (1, ("--prompt", "rain")),
        (2, ("--prompt", "snow", "--seed", 4, "--ip-adapter-scale", 1)),
    ):
        assert run("generate", *flags, "--output", "one.png", *common).status == 0
        assert (tmp_path / "one.png").read_bytes() == (
            tmp_path / "out" / f"000{number}.png"
        ).read_bytes()
    # Weights of other names are other images, and no more is loaded if all are there.
    again = run("generate", "--prompts", "p.txt", "--output", "out", *common)
    assert (again.out, again.log) == ([], ["2 of 2 prompts have their images already"])
    again = run("generate", "--prompts", "p.txt", "--output", "out", *common, "--dtype", "bfloat16")
    assert again.out == ran.out


def test_flags_are_for_what_a_line_does_not_have(generate, asked, tmp_path):
    small_model.person(3, image_size=(64, 128)).save(tmp_path / "other.npz")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    lines = [
        "a man",
        {"prompt": "b", "style": "snow", "face": "other.npz", "timesteps": [999, 1]},
        {"seed": 7, "negative_prompt": None, "image": "a.png", "style": None, "strength": 0.5},
    ]
    (tmp_path / "p.json").write_text(json.dumps(lines))
    flags = ("--prompt", "c", "--negative-prompt", "hat", "--style", "neon", "--seed", 2)
    ran = generate(tmp_path / "p.json", *flags, "--sigmas", 14.6, 0, output="o.jpg")
    assert ran.out == ["o-0001.jpg", "o-0002.jpg", "o-0003.jpg"]
    neon, snow = find_style("Neon"), find_style("Snow")
    assert [(each.prompt, each.negative_prompt, each.seed) for each in asked] == [
        (neon.positive("a man"), neon.negative("hat"), 2),
        (snow.positive("b"), snow.negative("hat"), 2),
        ("c", None, 7),
    ]
    assert asked[1].timesteps == (999, 1) and asked[1].sigmas is None
    assert asked[2].image == str(tmp_path / "a.png")
    assert (asked[0].face.embedding == asked[2].face.embedding).all()
    assert (asked[0].face.embedding != asked[1].face.embedding).any()
    assert Provenance.read("o-0002.jpg").facts["face_files"] == [str(tmp_path / "other.npz")]


def test_images_that_are_there_are_kept(generate, asked, tmp_path):
    assert generate("a\nb\n", "--num-images-per-prompt", 2).out == [
        f"out/000{line}-{image}.png" for line in (1, 2) for image in (1, 2)
    ]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    asked.clear()
    ran = generate("a\nb\nc\n", "--num-images-per-prompt", 2)
    assert ran.out == ["out/0003-1.png", "out/0003-2.png"]
    assert ran.log == ["2 of 3 prompts have their images already"]
    assert [request.prompt for request in asked] == ["c"]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


CHANGES = {
    "another prompt": ("a\nx\n", (), "was made otherwise than p.txt line 2 says"),
    "another setting": ('a\n{"prompt": "b", "seed": 1}', (), "was made otherwise than"),
    "another flag": ("a\nb\n", ("--guidance-scale", 3), "was made otherwise than"),
    "a size": ("a\nb\n", ("--height", 72, "--width", 64), "was made otherwise than"),
    "another face": ('a\n{"prompt": "b", "face": "other.npz"}', (), "was made otherwise than"),
    "a pose": ('a\n{"prompt": "b", "pose": "other.npz"}', (), "was made otherwise than"),
    "other weights": ("a\nb\n", ("--lora", "some/lora"), "was made otherwise than"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_images_of_other_requests_are_replaced(generate, asked, tmp_path, case):
    small_model.person(3, image_size=(64, 128)).save(tmp_path / "other.npz")
    assert len(generate("a\nb\n").out) == 2
    asked.clear()
    prompts, flags, message = CHANGES[case]
    ran = generate(prompts, *flags)
    assert ran.out[-1] == "out/0002.png" and re.search(message, "\n".join(ran.log))
    assert recorded("out/0002.png").prompt == asked[-1].prompt
    assert generate(prompts, *flags).out == []


@pytest.mark.parametrize("contents", [b"", b"not an image", "cut", "plain"])
def test_files_that_are_not_whole_or_not_ours_are_replaced(generate, asked, tmp_path, contents):
    path = tmp_path / "out" / "0001.png"
    generate("a\nb\n")
    if contents == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif contents == "plain":
        Image.new("RGB", (8, 8)).save(path)
    else:
        path.write_bytes(contents)
    ran = generate("a\nb\n")
    assert ran.out == ["out/0001.png"] and ran.log[0].endswith(": this file is replaced")


def test_a_prompt_that_fails_does_not_stop_the_others(generate, recorder, monkeypatch):
    run = recorder.run

    def failing(requests, **options):
        if requests[0].prompt == "b":
            raise InputError("not finite")
        return run(requests, **options)

    monkeypatch.setattr(recorder, "run", failing)
    ran = generate("a\nb\nc\n")
    assert (ran.status, ran.out) == (1, ["out/0001.png", "out/0003.png"])
    assert ran.log == ["p.txt line 2: not finite"]
    ran = generate("a\nb\nc\n")
    assert (ran.status, ran.out) == (2, [])
    assert ran.err == ["instantid: error: no prompt of p.txt that was left gave an image"]


BAD = {
    "no file": ("none.txt", (), "^none.txt: no such file"),
    "grammar": ("a\nb AND c\n", (), "^p.txt line 2: prompt has AND"),
    "a value": ('a\n{"seed": -1, "prompt": "b"}', (), "^p.txt line 2: seed=-1"),
    "a type": ('{"prompt": 3}', (), "^p.txt line 1: prompt holds a int"),
    "a style": ('{"prompt": "a", "style": "snw"}', (), "line 1: style='snw': .*did you mean Snow"),
    "a photo": ('a\n{"prompt": "b", "face": "x.jpg"}', (), "line 2: .*x.jpg: no such file"),
    "an image": ('{"prompt": "b", "image": "x.jpg"}', (), "line 1: .*x.jpg: no such file"),
    "no prompt": ('{"seed": 1}', (), "line 1: no prompt: give one here, or --prompt for all"),
    "no face": ('{"prompt": "b", "face": []}', (), "line 1: no face: give one here, or --face"),
    "a control image": ('{"prompt": "b", "control_images": "me.npz"}', (), "has 1 images"),
    "steps": (
        'a\n{"prompt": "a", "num_inference_steps": 6}',
        ("--fast", "dmd2", "--sdxl", "folder", "--instantid", "folder"),
        "line 2: num_inference_steps=6 with fast='dmd2'",
    ),
    "a format": ("a", ("--output", "o.gif"), "^--output o-0001.gif: expected a name ending in"),
    "a file": ("a", ("--output", "me.npz/x"), "me.npz is a file, expected a folder"),
    "like": ("a", ("--like", "made.png"), "--like and --prompts are both given"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_weights(generate, recorder, monkeypatch, tmp_path, case):
    prompts, flags, expected = BAD[case]
    (tmp_path / "folder").mkdir()
    if case == "like":
        assert generate("a", output="made.png").status == 0
        (tmp_path / "made-0001.png").rename(tmp_path / "made.png")
    monkeypatch.setattr(recorder, "run", lambda *_, **__: pytest.fail("a model runs"))
    ran = generate(tmp_path / prompts if case == "no file" else prompts, *flags)
    assert ran.status == 2 and len(ran.err) == 1 and not (tmp_path / "out").exists()
    message = ran.err[0].removeprefix("instantid: error: ").replace(f"{tmp_path}/", "")
    assert re.search(expected, message), message
