r"""Prompt weights: reads the grammar of AUTOMATIC1111's web UI.

(words) weighs them 1.1, (words:1.3) 1.3 and [words] 1/1.1; nested brackets multiply. A bracket that
is never closed reaches to the end. \(, \), \[, \] and \\ are the characters themselves. BREAK ends
a chunk. What the web UI reads as several prompts is refused: [a:b:0.5], [a|b] and AND.
"""

import dataclasses
import re

import numpy as np

from instantid_jax.chunks import Prompt, Run
from instantid_jax.errors import InputError
from instantid_jax.request.checks import FLOAT32_MAX, shortened
from instantid_jax.request.request import Request

TEXTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
ROUND = 1.1
SQUARE = 1 / 1.1
_MARK = re.compile(r"(\\[()\[\]\\])|:([+-]?[.\d]+)\)|[()\[\]|:]|\bBREAK\b|\bAND\b")
# At the end of a square bracket, the step at which the web UI changes the prompt.
_STEP = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
LITERAL = r"or take brackets literally: \[ and \], or prompt_weighting=False for all of the text"


def check_grammar(request: Request) -> None:
    """Raises an InputError for what a prompt of a request cannot contain."""
    for name in TEXTS:
        text = getattr(request, name)
        if text is not None:
            read_prompt(name, text, request.prompt_weighting)


def read_prompt(name: str, text: str, weighting: bool) -> Prompt:
    """The parts of a prompt between BREAKs, each in runs of equal weight.

    Args:
      name: the setting, for messages.
      weighting: False takes the text literally, as one run.
    Raises:
      InputError: for several prompts in one, and weights that are not numbers.
    """
    return _Reader(name, text).parts() if weighting else ((Run(text, 1.0),),)


@dataclasses.dataclass
class _Square:
    """A square bracket that is open.

    Attributes:
      start: its position in the text.
      run: the number of its first run.
      rounds: how many round brackets are open around it.
      alternatives: whether it has a | of its own.
      colon: the position after its last colon.
    """

    start: int
    run: int
    rounds: int
    alternatives: bool = False
    colon: int | None = None


class _Reader:
    def __init__(self, name: str, text: str):
        self._name, self._text = name, text
        # None is a BREAK.
        self._runs: list[tuple[str, float] | None] = []
        # For each open one, the number of its first run.
        self._rounds: list[int] = []
        self._squares: list[_Square] = []

    def parts(self) -> Prompt:
        end = 0
        for match in _MARK.finditer(self._text):
            self._add(self._text[end : match.start()])
            self._read(match)
            end = match.end()
        self._add(self._text[end:])
        for run in self._rounds:
            self._multiply(run, ROUND)
        for square in self._squares:
            self._multiply(square.run, SQUARE)
        return self._merged()

    def _add(self, text: str) -> None:
        if text:
            self._runs.append((text, 1.0))

    def _read(self, match: re.Match[str]) -> None:
        mark, escaped, weight = match[0], match[1], match[2]
        if escaped:
            self._add(escaped[1:])
        elif mark == "BREAK":
            self._runs.append(None)
        elif mark == "AND":
            raise InputError(
                f"{self._name} has AND, which joins several prompts and is not supported: write "
                '"and", or set prompt_weighting=False'
            )
        elif mark == "(":
            self._rounds.append(len(self._runs))
        elif mark == "[":
            self._squares.append(_Square(match.start(), len(self._runs), len(self._rounds)))
        elif weight and self._rounds:
            self._multiply(self._rounds.pop(), self._number(weight))
        elif mark == ")" and self._rounds:
            self._multiply(self._rounds.pop(), ROUND)
        elif mark == "]" and self._squares:
            square = self._squares.pop()
            self._check(square, match)
            self._multiply(square.run, SQUARE)
        else:
            if self._squares and self._squares[-1].rounds == len(self._rounds):
                square = self._squares[-1]
                square.alternatives |= mark == "|"
                square.colon = match.end() if mark == ":" else square.colon
            self._add(mark)

    def _check(self, square: _Square, closing: re.Match[str]) -> None:
        """Refuses prompts that change from step to step."""
        found = shortened(self._text[square.start : closing.end()])
        if square.alternatives:
            raise InputError(
                f"{self._name} has {found}, which alternates between prompts and is not "
                f"supported: give one of them, {LITERAL}"
            )
        if square.colon is not None and _STEP.fullmatch(self._text, square.colon, closing.start()):
            raise InputError(
                f"{self._name} has {found}, which changes the prompt at a step and is not "
                f"supported: give one prompt, {LITERAL}"
            )

    def _number(self, weight: str) -> float:
        try:
            return float(weight)
        except ValueError:
            raise InputError(
                f"{self._name} has the weight {shortened(weight)}, which is not a number: write "
                r"(words:1.2), \( and \) for literal brackets, or set prompt_weighting=False"
            ) from None

    def _multiply(self, first: int, factor: float) -> None:
        for i in range(first, len(self._runs)):
            run = self._runs[i]
            if run is not None:
                self._runs[i] = (run[0], self._checked(run[1] * factor))

    def _checked(self, weight: float) -> float:
        if not abs(weight) <= FLOAT32_MAX:
            raise InputError(f"{self._name} has a weight of {weight:g}: expected about 0 to 2")
        return weight

    def _merged(self) -> Prompt:
        parts: list[list[Run]] = [[]]
        for run in self._runs:
            if run is None:
                parts.append([])
                continue
            # float32, as they are computed with: [(words)] has no weight.
            text, weight = run[0], float(np.float32(run[1]))
            part = parts[-1]
            if part and part[-1].weight == weight:
                text = part.pop().text + text
            part.append(Run(text, weight))
        return tuple(tuple[Run, ...](part) for part in parts)
