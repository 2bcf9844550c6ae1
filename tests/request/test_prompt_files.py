"""Files of prompts: lines of text, lines of JSON and arrays."""

import json

import pytest

from instantid_jax.errors import InputError
from instantid_jax.request.prompt_files import read_prompts


@pytest.fixture
def write(tmp_path):
    def write(contents: str | bytes, name="prompts.txt"):
        path = tmp_path / name
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        return path

    return write


def test_lines_of_text(write):
    path = write('\ufeffa man, (rain:1.2)\r\n\n# comment\n  [a] "cat"  \r\n\u2028{"seed": 3}\n雨')
    lines = read_prompts(path)
    assert [line.values for line in lines] == [
        {"prompt": "a man, (rain:1.2)"},
        {"prompt": '[a] "cat"'},
        {"seed": 3},
        {"prompt": "雨"},
    ]
    assert [line.place for line in lines] == [f"{path} line {i}" for i in (1, 4, 5, 6)]


OBJECTS = [
    {"prompt": "a", "num-inference-steps": 3, "guidance_scale": 2.5, "timesteps": None},
    {"face": "me.jpg", "pose": "~/p.png", "control_images": ["a.png", "/b.png"], "style": "Snow"},
    "# a prompt",
]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".JSON"])
def test_objects_and_files_of_their_folder(write, tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("HOME", "/home/x")
    text = json.dumps(OBJECTS) if suffix.lower() == ".json" else "\n".join(map(json.dumps, OBJECTS))
    assert [line.values for line in read_prompts(write(text, f"p{suffix}"))] == [
        {"prompt": "a", "num_inference_steps": 3, "guidance_scale": 2.5, "timesteps": None},
        {
            "face": (str(tmp_path / "me.jpg"),),
            "pose": "/home/x/p.png",
            "control_images": (str(tmp_path / "a.png"), "/b.png"),
            "style": "Snow",
        },
        {"prompt": "# a prompt"},
    ]


BAD = {
    "no lines": ("p.txt", "\n# comment\n", "has no prompts"),
    "no entries": ("p.json", "[]", "has no prompts"),
    "an object": ("p.json", "{}", "holds a dict: expected an array"),
    "half an object": ("p.txt", 'a\n{"seed": 1', r"line 2 is not valid JSON \("),
    "text in JSON lines": ("p.jsonl", "a man", r"line 1 is not valid JSON \("),
    "a number": ("p.jsonl", '"a"\n3', "line 2 holds 3: expected a prompt, or an object"),
    "a list": ("p.json", '["a", ["b"]]', r"entry 2 holds \['b'\]"),
    "deep": ("p.json", "[" * 100_000, "is not valid JSON"),
    "another name": ("p.txt", '{"steps": 3}', "line 1: unknown argument steps: did you mean num_"),
    "not a path": ("p.txt", '{"image": 3}', "line 1: image holds a int: expected text"),
    "an address": ("p.txt", '{"face": "https://x/a.png"}', "is an address"),
    "an empty path": ("p.txt", '{"face": ["a", ""]}', "line 1: an empty path"),
    "not UTF-8": ("p.txt", b"caf\xe9", "is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_hostile_files_are_one_line(write, case):
    name, contents, message = BAD[case]
    path = write(contents, name)
    with pytest.raises(InputError, match=message) as error:
        read_prompts(path)
    assert str(error.value).startswith(str(path))
