"""The cases of the sampling benchmark, serialized between parent and child processes."""

import dataclasses
import json
from typing import Self

# Sequence lengths of a prompt in SDXL and of an ID in InstantID.
TOKENS, ID_TOKENS = 77, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of call.

    Attributes:
      size: side of the images, in pixels.
      batch: images at a time.
      steps: denoising steps.
      guidance: use classifier-free guidance, which doubles the rows.
    """

    size: int
    batch: int
    steps: int
    guidance: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The cases for a child process.

    Attributes:
      small: use the miniature's networks instead of SDXL's.
      dtype: compute dtype.
      vae_dtype: compute dtype of the VAE.
      repeats: number of timed calls of each case.
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
        job = json.loads(text)
        return cls(**job | {"cases": tuple(Case(**case) for case in job["cases"])})
