"""Pictures that a model makes of held-out people."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from instantid_jax import InstantIDPipeline, embedded
from instantid_jax.face.face import Face
from instantid_jax.request import Request, Settings
from instantid_jax.request.settings import SEEDS
from miniature.evaluation.held_out import HeldOut
from miniature.portraits import SIDE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """What is evaluated.

    Attributes:
      sdxl: the base model's folder.
      instantid: the adapter's and IdentityNet's folder, or a training run's.
      face_pack: the face pack's folder.
    """

    sdxl: Path = embedded.SDXL
    instantid: Path = embedded.INSTANTID
    face_pack: Path = embedded.FACE_PACK

    def load(self) -> InstantIDPipeline:
        return InstantIDPipeline.load(sdxl=str(self.sdxl), instantid=str(self.instantid))


# By default images are made as `instantid demo` makes them, in fewer steps.
SAMPLING = Settings(num_inference_steps=16, height=SIDE, width=SIDE)


def make_pictures(
    pipe: InstantIDPipeline,
    held_out: HeldOut,
    settings: Settings,
    seed: int,
    *,
    batch: int,
    photos: int = 1,
) -> list[Image.Image]:
    """An image for each case: its person, as the first photos have them, at its keypoints.

    Args:
      seed: of the first case; each has the next.
      batch: how many are made at a time.
      photos: how many of each person are averaged; 0 is nobody, an embedding of zeros.
    """
    requests = [
        Request(
            case.target.caption,
            face=Face(
                embedding=_embedding(faces, photos), kps=case.target.kps, image_size=(SIDE, SIDE)
            ),
            **settings.values(seed=(seed + i) % SEEDS),
        )
        for i, (case, faces) in enumerate(zip(held_out.cases, held_out.faces, strict=True))
    ]
    made: list[Image.Image] = []
    for start in tqdm(range(0, len(requests), batch), unit="batch", disable=None):
        some = requests[start : start + batch]
        # One shape compiles once: the last batch is filled up.
        made += pipe.run(some + some[:1] * (batch - len(some))).images[: len(some)]
    return made


def _embedding(faces: Sequence[Face], photos: int) -> np.ndarray:
    return Face.mean(faces[:photos]).embedding if photos else np.zeros_like(faces[0].embedding)
