"""Generates pictures of held-out people with a model."""

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
    """The model to evaluate.

    Attributes:
      sdxl: the base model's folder.
      instantid: the folder of adapter and IdentityNet, or of a training run.
      loras: LoRAs to merge.
      face_pack: the face pack's folder.
    """

    sdxl: Path = embedded.SDXL
    instantid: Path = embedded.INSTANTID
    loras: tuple[str, ...] = ()
    face_pack: Path = embedded.FACE_PACK

    def load(self) -> InstantIDPipeline:
        return InstantIDPipeline.load(
            sdxl=str(self.sdxl), instantid=str(self.instantid), loras=self.loras
        )


# The settings of `instantid demo`, with fewer steps.
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
    """Generates an image of each case's person, at the target's keypoints.

    Args:
      seed: seed of the first case; case i uses seed + i.
      batch: images generated at a time.
      photos: photos per person whose embeddings are averaged; with 0 the embedding is zero.
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
    return run_all(pipe, requests, batch)


def run_all(pipe: InstantIDPipeline, requests: Sequence[Request], batch: int) -> list[Image.Image]:
    """The image of each request, `batch` at a time."""
    requests = list(requests)
    made: list[Image.Image] = []
    for start in tqdm(range(0, len(requests), batch), unit="batch", disable=None):
        chunk = requests[start : start + batch]
        # Pad the last batch, so that there is one shape to compile.
        made += pipe.run(chunk + chunk[:1] * (batch - len(chunk))).pil_images[: len(chunk)]
    return made


def _embedding(faces: Sequence[Face], photos: int) -> np.ndarray:
    return Face.mean(faces[:photos]).embedding if photos else np.zeros_like(faces[0].embedding)
