"""The code in README.md and the other documents: commands parse, and Python blocks run.

The Python blocks of a document run in order, in one namespace and an empty folder. The fence
"```python weights" marks a block that needs published weights, and "```python official" one of the
official project: they are only compiled.
"""

import ast
import functools
import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import convert.__main__
import instantid_jax.cache
import train.__main__
import train.distill
import train.distributed
import train.loop
from instantid_jax import cli
from instantid_jax.cli.entry import run_command
from instantid_jax.image_files import save_image

ROOT = Path(__file__).parents[1]
ONLY_COMPILED = {"weights", "official"}
FENCE = re.compile(r"^```(?P<info>[^\n]+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its file, first line, language, marks and code."""

    path: Path
    line: int
    language: str
    marks: tuple[str, ...]
    code: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks() -> Iterator[Block]:
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("[!.]*/*.md")]):
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            language, *marks = match["info"].split()
            line = text.count("\n", 0, match.start("code")) + 1
            yield Block(path, line, language, tuple(marks), match["code"])


def commands(code: str) -> Iterator[list[str]]:
    """The words of each command in a shell block, without comments."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


BLOCKS = list(blocks())
COMMANDS = [
    pytest.param(words, id=f"{block}: {' '.join(words[:5])}")
    for block in BLOCKS
    if block.language == "sh"
    for words in commands(block.code)
    if words[0] == "instantid"
    or (words[:2] == ["python", "-m"] and words[2] in ("train", "train.distill", "convert"))
]
# The tutorial runs with its commands, in test_tutorial.py.
SCRIPTS = {
    path: [block for block in group if block.language == "python"]
    for path, group in itertools.groupby(BLOCKS, key=lambda block: block.path)
    if path.name != "tutorial.md"
}


@pytest.fixture
def parsed(monkeypatch, tmp_path):
    """Replaces the commands' functions; returns the names of the commands called.

    The commands find `configs/`, and an `out.png` that records its prompt.
    """
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    image = np.zeros((64, 64, 3), np.uint8)
    save_image(image, tmp_path / "out.png", text={"parameters": "a person\nSteps: 8, Seed: 1"})
    monkeypatch.chdir(tmp_path)
    called = []

    def parse_only(name, functions, *rest):
        def skipping(command, function):
            return functools.wraps(function)(lambda *_, **__: called.append(command))

        run_command(name, {n: skipping(n, f) for n, f in functions.items()}, *rest)

    def skip_training(*_):
        called.append("train")
        return 0

    monkeypatch.setattr(cli, "run_command", parse_only)
    monkeypatch.setattr(convert.__main__, "run_command", parse_only)
    monkeypatch.setattr(train.loop, "train", skip_training)
    monkeypatch.setattr(train.distributed, "join", lambda _: None)
    monkeypatch.setattr(instantid_jax.cache, "keep_compiled_programs", lambda: None)
    return called


def call(words: list[str]) -> None:
    if words[0] == "instantid":
        cli.main(words[1:])
    elif words[2] == "convert":
        convert.__main__.main(words[3:])
    else:
        program = {"train": train.__main__, "train.distill": train.distill}[words[2]]
        with pytest.raises(SystemExit) as ended:
            program.main(words[3:])
        assert not ended.value.code


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_parse(words, parsed):
    call(words)
    trains = words[2:3] in (["train"], ["train.distill"])
    expected = "train" if trains else words[3 if words[0] == "python" else 1]
    assert parsed == [expected]


@pytest.mark.parametrize("program", ["instantid generate", "python -m convert to-jax"])
def test_unknown_flags_do_not_parse(program, parsed):
    with pytest.raises(SystemExit) as ended:
        call([*program.split(), "--no-such-flag", "1"])
    assert ended.value.code == 2 and not parsed


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.name) for path, scripts in SCRIPTS.items() if scripts]
)
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in SCRIPTS[path]:
        code = compile(block.code, str(block), "exec")
        if not ONLY_COMPILED & set(block.marks):
            exec(code, names)


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "python" and "weights" in b.marks], ids=str
)
def test_imports_of_blocks_that_do_not_run_are_found(block):
    for node in ast.parse(block.code).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("instantid_jax"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_documents_have_both_kinds_of_blocks():
    assert len(COMMANDS) > 10
    assert any(not ONLY_COMPILED & set(b.marks) for b in itertools.chain(*SCRIPTS.values()))
