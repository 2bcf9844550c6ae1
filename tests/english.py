"""`python -m tests.english [PATH ...]`: checks the prose of the repository.

Prints `file:line: match: advice` for each banned pattern, and exits with status 1 if there are any.
Without paths it checks `FOLDERS`. It reads Python and Markdown files, names in code included.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "CONTRIBUTING.md",
    "README.md",
    "benchmarks",
    "comfyui",
    "configs",
    "convert",
    "docs",
    "instantid_jax",
    "miniature",
    "tests/benchmarks",
    "tests/cli",
    "tests/comfyui",
    "tests/configs",
    "tests/conftest.py",
    "tests/convert",
    "tests/diffusion",
    "tests/face",
    "tests/memory.py",
    "tests/miniature",
    "tests/models",
    "tests/parity",
    "tests/pipeline",
    "tests/request",
    "tests/runs",
    "tests/serving",
    "tests/test_atomic.py",
    "tests/test_cache.py",
    "tests/test_checkpoint.py",
    "tests/test_chunks.py",
    "tests/test_compilation.py",
    "tests/test_components.py",
    "tests/test_documentation.py",
    "tests/test_embedded.py",
    "tests/test_image_files.py",
    "tests/test_images.py",
    "tests/test_import.py",
    "tests/test_layers.py",
    "tests/test_params.py",
    "tests/test_prompt.py",
    "tests/test_sharding.py",
    "tests/test_tutorial.py",
    "tests/train",
    "tests/weights",
    "train",
)
SUFFIXES = (".md", ".py")
# Not prose: the names of published files, of the program that writes them, and of an exception.
ALLOWED = re.compile(
    r"recogniser\.onnx|faces[./]recogniser\b|\$RUNS/recogniser\b|\(.recogniser.\)|CancelledError"
)

_IZE = (
    "author|custom|initial|general|maxim|memor|material|minim|normal|optim|organ|parallel|penal|"
    "quant|random|recogn|regular|serial|special|standard|summar|synchron|token|util|vector|visual"
)
_OUR = "behavi|col|fav|hon|lab|neighb"
_UNITS = "bytes|examples|flops?|frames|images|pictures|records|rows|seconds|steps|tokens|[GMk]B|m?s"
_PER = (
    "batch|chip|core|device|epoch|example|face|GPU|image|layer|picture|process|record|second|step"
)

PATTERNS = {
    rf"\w*(?:{_IZE})is(?:e|ed|er|ers|es|ing|ation|ations)(?![a-z])": "American spelling: -ize",
    rf"(?:{_OUR})our(?!i|ed\b\.)\w*": "American spelling: -or",
    r"analys(?:e|ed|er|ing)\b|paralys": "American spelling: analyze",
    r"(?:centre|fibre|litre|theatre)[ds]?(?![a-z])": "American spelling: center",
    r"grey|licence|defence|artefact|catalogue|programme\b": "American spelling",
    r"\b(?:learnt|spelt|whilst|amongst)\b": "American spelling: learned, while, among",
    r"(?:cancel|label|model|signal|travel)l(?:ed|er|ing)": "American spelling: one l",
    r"\btold\b": "reported, logged, given, documented; as a name: message, stderr, summary",
    r"\b\d[\d.]*(?:e-?\d+)? up\b(?! to)": '"or more", "at least"',
    r"(?<!there )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|better\b|worse\b)[a-z]+": (
        '"is not a ...", "must be ..."'
    ),
    r"\b(?:come|comes|given|made|taken) (?:drawn|ready)\b": '"precomputed", "already drawn"',
    r"\bbeside\b": '"besides", "in addition to", "next to", "compared with"',
    r"\b(?:go|goes|going|gone|went) on\b": '"resume", "continue"',
    r"\bin place of\b": '"instead of"',
    r"\bthe way back\b": '"the backward pass"',
    r"\b(?:as few as|not quite|so many|as far as it can)\b": "state the number or the fact",
    rf"\b(?:{_UNITS}) an? (?:{_PER})\b": '"per"',
    r", (?:for|of) which\b": "a sentence of its own, with a subject",
    r"^\s*(?:- )?\w+(?:, \w+)*: of (?:a|all|an|each|its|one|the|this|what)\b": "name the subject",
}
# Case matters: these match the start of a sentence.
SENTENCES = {
    r"(?:^\W*|[.:;] )Of (?!course\b)[a-z]+": "subject first, instead of a genitive",
    r'^\s*"""(?:What|Where|Who|Whom)\b': "start with a verb or a noun",
}


class Finding(NamedTuple):
    path: Path
    line: int
    match: str
    advice: str


def findings(path: Path) -> Iterator[Finding]:
    """Yields the banned patterns in a file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        for match, advice in check(line):
            yield Finding(path, number, match, advice)


def check(line: str) -> Iterator[tuple[str, str]]:
    """Yields (match, advice) for each banned pattern in a line."""
    line = ALLOWED.sub("", line)
    for patterns, flags in ((PATTERNS, re.IGNORECASE), (SENTENCES, re.NOFLAG)):
        for pattern, advice in patterns.items():
            for match in re.finditer(pattern, line, flags):
                yield match[0].strip(), advice


def files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yields the files to check in files and folders, ordered by name."""
    for path in paths:
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (each for each in found if each.suffix in SUFFIXES and each.is_file())


def main(args: Sequence[str]) -> int:
    """Prints all findings; returns the exit status."""
    paths = [Path(arg) for arg in args] or [ROOT / folder for folder in FOLDERS]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        print(f"no such file or folder: {', '.join(missing)}", file=sys.stderr)
        return 2
    found = [finding for path in files(paths) for finding in findings(path)]
    for path, line, match, advice in found:
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        print(f"{shown}:{line}: {match}: {advice}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
