"""`python -m miniature.faces.judge --workdir DIR`: trains the recogniser that judges pictures.

Of another architecture than the face pack's, from another seed, on other people: nothing but an
evaluation may use it.
"""

import dataclasses

import tyro

from instantid_jax.cli.entry import entry
from miniature.faces import export
from miniature.faces.networks import Judge, JudgeConfig
from miniature.faces.recogniser import STAGE, Kind, Options, train_recogniser
from miniature.stage import Stage

STAGE_OF_JUDGE = dataclasses.replace(STAGE, seed=1, steps=3000, algorithm="muon")
JUDGE = Kind(Judge, JudgeConfig(), export.judge, seed=211, held_out_seed=212)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeOptions(Options):
    """As the face pack's recogniser, but for its seed, more steps and Muon."""

    stage: Stage = STAGE_OF_JUDGE


def main() -> None:
    with entry("judge"):
        train_recogniser(JUDGE, tyro.cli(JudgeOptions, description=__doc__))


if __name__ == "__main__":
    main()
