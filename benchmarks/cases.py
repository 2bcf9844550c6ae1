"""What the benchmarks of sampling measure, as parent and child processes tell each other."""

import dataclasses
import json
from typing import Self

# Of a prompt and of a person, as SDXL's networks and InstantID's take them.
TOKENS, ID_TOKENS = 77, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of call.

    Attributes:
      size: side of the pictures, in pixels.
      batch: pictures at a time.
      steps: denoising steps.
      guidance: with classifier-free guidance, which doubles the rows.
    """

    size: int
    batch: int
    steps: int
    guidance: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a child process measures.

    Attributes:
      small: the miniature's networks in place of SDXL's.
      dtype: what to compute in.
      vae_dtype: the same for the VAE.
      repeats: timed calls of each case.
    """

    cases: tuple[Case, ...]
    small: bool
    dtype: str
    vae_dtype: str
    repeats: int

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        told = json.loads(text)
        return cls(**told | {"cases": tuple(Case(**case) for case in told["cases"])})
