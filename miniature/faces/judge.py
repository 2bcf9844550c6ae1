"""`python -m miniature.faces.judge --workdir DIR`: trains the evaluation's recognizer.

It has another architecture and seed than the face pack's recognizer, and is trained on other
people. Use it for evaluation only.
"""

import dataclasses

import tyro

from instantid_jax.cli.entry import entry
from miniature.faces import export
from miniature.faces.networks import Judge, JudgeConfig
from miniature.faces.recogniser import STAGE, Kind, Options, train_recognizer
from miniature.stage import Stage

JUDGE_STAGE = dataclasses.replace(STAGE, seed=1, steps=3000, algorithm="muon")
JUDGE = Kind(Judge, JudgeConfig(), export.judge, seed=211, held_out_seed=212)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeOptions(Options):
    """Options of the face pack's recognizer, with another seed, more steps and Muon."""

    stage: Stage = JUDGE_STAGE


def main() -> None:
    with entry("judge"):
        train_recognizer(JUDGE, tyro.cli(JudgeOptions, description=__doc__))


if __name__ == "__main__":
    main()
