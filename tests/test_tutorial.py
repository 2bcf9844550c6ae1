"""The tutorial runs on the embedded model; the table of diffusers' arguments is complete."""

import re
import shlex
from pathlib import Path

import pytest

from instantid_jax import cli
from tests.pipeline.test_diffusers_arguments import THEIRS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of each command in a shell block, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty folder with links to the checkout's folders."""
    for name in ("instantid_jax", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.slow
def test_the_tutorial_runs(checkout):
    """Runs its Python blocks and `instantid` commands in order."""
    namespace: dict = {}
    for kind, block in BLOCK.findall((DOCS / "tutorial.md").read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(block, "docs/tutorial.md", "exec"), namespace)
        for program, *arguments in commands(block) if kind == "sh" else ():
            if program == "instantid":
                cli.main(arguments)
    made = {path.name for path in Path().glob("*.png")}
    assert made == {"out.png", "again.png", "painting.png", "seven.png", "two-1.png", "two-2.png"}
    assert Path("out.png").read_bytes() == Path("again.png").read_bytes()


def test_every_argument_of_diffusers_is_in_the_table():
    rows = re.findall(
        r"^\| `(\w+)` \|", (DOCS / "sampling.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert rows == THEIRS
