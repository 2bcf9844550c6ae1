"""Result: the images of a call, and how each was made."""

import dataclasses
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.image_files import save_image
from instantid_jax.paths import local_path
from instantid_jax.pipeline.model import LoadedModel
from instantid_jax.pipeline.plan import Plan
from instantid_jax.pipeline.sources import Sources
from instantid_jax.request.provenance import Provenance
from instantid_jax.sharding import mesh_text


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The images of a call.

    Attributes:
      images: a list of Pillow images; for "np" [B, H, W, 3] float32 in [0, 1]; for "latent" None.
      latents: [B, H/8, W/8, C] float32, scaled as the VAE's.
      seeds: the seed of each image.
      provenance: how each image was made.
    """

    images: list[Image.Image] | np.ndarray | None
    latents: np.ndarray
    seeds: list[int]
    provenance: Sequence[Provenance] = ()

    @property
    def pil_images(self) -> list[Image.Image]:
        """The images, where they are Pillow images.

        Raises:
          ValueError: if they are not, as with output_type="np" or "latent".
        """
        if not isinstance(self.images, list):
            raise ValueError('only images of output_type="pil" are Pillow images')
        return self.images

    def only(self, i: int) -> "Result":
        """The result of image `i` alone.

        Raises:
          InputError: if `i` is not the index of an image.
        """
        if not 0 <= i < len(self.seeds):
            raise InputError(f"image {i} of {len(self.seeds)}: expected 0 to {len(self.seeds) - 1}")
        images = None if self.images is None else self.images[i : i + 1]
        return Result(
            images, self.latents[i : i + 1], self.seeds[i : i + 1], self.provenance[i : i + 1]
        )

    def save(
        self, path: str | os.PathLike[str], facts: Mapping[str, Any] | None = None
    ) -> list[Path]:
        """Writes the images as files that say how they were made (`Request.from_image`).

        Args:
          path: ends in .png, .jpg, .jpeg or .webp; of several images, each gets its number,
            out-1.png, out-2.png.
          facts: more to record, such as where the face came from; what JSON does not know is
            recorded as text.
        Returns:
          The files that were written.
        Raises:
          ValueError: if the images are not Pillow images.
          InputError: if a file cannot be written under this name.
        """
        images = self.pil_images
        paths = numbered(local_path(path), len(images))
        for target, image, provenance in zip(paths, images, self.provenance, strict=True):
            save_image(image, target, text=provenance.to_text(facts or {}))
        return paths


def join(results: Sequence[Result]) -> Result:
    """The images of results with Pillow images, in one."""
    return Result(
        [image for result in results for image in result.pil_images],
        np.concatenate([result.latents for result in results]),
        [seed for result in results for seed in result.seeds],
        [provenance for result in results for provenance in result.provenance],
    )


def numbered(path: Path, images: int) -> list[Path]:
    """The file of each image: `path`, or of several out-1.png, out-2.png."""
    if images == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{i + 1}") for i in range(images)]


def provenance_of(model: LoadedModel, plan: Plan, sources: Sources | None) -> list[Provenance]:
    """How each image of a plan was made, in a form that makes it again."""
    facts = {
        "version": importlib.metadata.version("instantid-jax"),
        "weights": None if sources is None else vars(sources),
        "weights_hash": model.weights_hash,
        "dtype": model.dtype.name,
        "vae_dtype": model.vae_dtype.name,
        "mesh": None if model.mesh is None else mesh_text(model.mesh),
        "vae_tiling": model.vae_tile(plan.size) or False,
    }
    height, width = plan.size
    made = []
    for position, request in enumerate(plan.requests):
        scale = request.guidance_scale
        resolved = dataclasses.replace(
            request,
            height=height,
            width=width,
            guidance_scale=model.guidance_scale if scale is None else scale,
        )
        own = facts | {"scheduler": request.scheduler or model.schedule.class_name}
        place = {"position": position, "requests": len(plan.requests), "facts": own}
        place["chunks"] = max(1, plan.text.length // model.tokenizers[0].length)
        made += [Provenance(resolved, image, **place) for image in range(plan.repeats)]
    return made
