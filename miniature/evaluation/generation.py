"""Pictures that a model makes of held-out people."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from instantid_jax import InstantIDPipeline, embedded
from instantid_jax.cli import generate
from instantid_jax.diffusion.names import SamplerName
from instantid_jax.face.face import Face
from instantid_jax.pipeline import inputs
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are made; by default as `instantid demo` makes them, in fewer steps.

    Attributes:
      batch: pictures made at a time.
    """

    ip_adapter_scale: float = generate.Sampling.ip_adapter_scale
    controlnet_conditioning_scale: float = generate.Sampling.controlnet_conditioning_scale[0]
    num_inference_steps: int = 16
    guidance_scale: float = embedded.GUIDANCE_SCALE
    scheduler: SamplerName | None = None
    batch: int = 20

    def check(self) -> None:
        """Refuses what the pipeline would, before people are drawn."""
        for name in ("ip_adapter_scale", "controlnet_conditioning_scale", "guidance_scale"):
            inputs.check_number(name, getattr(self, name), 0)
        inputs.check_whole("num_inference_steps", self.num_inference_steps, 1, 1000)
        inputs.check_whole("batch", self.batch, 1, 1024)


def make_pictures(
    pipe: InstantIDPipeline, held_out: HeldOut, sampling: Sampling, seed: int, photos: int = 1
) -> list[Image.Image]:
    """A picture for each case: its person, as the first photos have them, at its keypoints.

    Args:
      photos: so many of each person are averaged; 0 is nobody, an embedding of zeros.
    """
    settings = dataclasses.asdict(sampling)
    size = settings.pop("batch")
    made: list[Image.Image] = []
    for start in tqdm(range(0, len(held_out.cases), size), unit="batch", disable=None):
        targets = [case.target for case in held_out.cases[start : start + size]]
        people = [_embedding(faces, photos) for faces in held_out.faces[start : start + size]]
        asked = [
            Face(embedding=person, kps=target.kps, image_size=(SIDE, SIDE))
            for person, target in zip(people, targets, strict=True)
        ]
        captions = [target.caption for target in targets]
        # One shape compiles once: the last batch is filled up.
        short = size - len(targets)
        result = pipe(
            captions + captions[:1] * short,
            face=asked + asked[:1] * short,
            seed=[(seed + start + i) % 2**32 for i in range(size)],
            height=SIDE,
            width=SIDE,
            progress=False,
            **settings,
        )
        made += result.images[: len(targets)]
    return made


def _embedding(faces: Sequence[Face], photos: int) -> np.ndarray:
    return Face.mean(faces[:photos]).embedding if photos else np.zeros_like(faces[0].embedding)
