"""A model in ComfyUI's own process."""

import dataclasses
from typing import Any

import comfy.model_management
import numpy as np

from instantid_jax import InstantIDPipeline, embedded
from instantid_jax.face.face import Face
from instantid_jax.pipeline.conditions.refiner import resolve_samplers
from instantid_jax.request.request import Request

from .folders import find_face_pack
from .generation import Generated, Generation
from .people import combine
from .pipelines import Weights, pipeline_of
from .progress import Progress
from .windows import window_of


@dataclasses.dataclass(frozen=True)
class LocalModel:
    """Implements `generation.Model` with the pipeline of these weights."""

    weights: Weights

    def pipeline(self) -> InstantIDPipeline:
        """Loads the weights, if they are not loaded; ComfyUI's own leave the GPU."""
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        return pipeline_of(self.weights)

    def analyze(self, photos: tuple[np.ndarray, ...], combine_embeds: str) -> Face:
        """The person in photos, of each the largest face.

        Raises:
          InputError: if a photo has none, or the model does not take photographs.
        """
        pipe = self.pipeline()
        faces = [_analyze(pipe, photo) for photo in photos]
        if pipe.sources is not None and pipe.sources.embedded:
            for face in faces:
                embedded.check_drawn(face, "the image")
        return combine(faces, combine_embeds)

    def generate(self, generation: Generation) -> Generated:
        """Makes the images.

        Raises:
          InputError: for what the model does not take.
        """
        pipe = self.pipeline()
        face = generation.face or self.analyze(generation.photos, generation.combine_embeds)
        # Without drawn keypoints, they are those of the image to begin with.
        posing = generation.image_kps
        if posing is None and "kps_image" not in generation.images:
            posing = generation.images.get("image")
        request = Request(
            prompt=generation.prompt,
            face=face,
            pose=None if posing is None else _analyze(pipe, posing),
            **generation.settings.values(),
            **generation.images,
        )
        request = dataclasses.replace(request, **_windows(pipe, generation, request))
        result = pipe.run([request], observer=Progress())
        return Generated(
            [np.asarray(image) for image in result.pil_images],
            [
                {"seed": seed, **provenance.to_text({})}
                for seed, provenance in zip(result.seeds, result.provenance, strict=True)
            ],
        )


def _analyze(pipe: InstantIDPipeline, photo: np.ndarray) -> Face:
    return pipe.analyze(photo, find_face_pack(pipe.face_pack))


def _windows(pipe: InstantIDPipeline, generation: Generation, request: Request) -> dict[str, Any]:
    """The settings for `start_at` and `end_at`, which bound both the adapter and IdentityNet."""
    (sampler,) = resolve_samplers(pipe.model, [request])
    window = window_of(generation.start_at, generation.end_at, sampler.timesteps, sampler.left_out)
    if window.is_empty:
        return {"ip_adapter_scale": 0.0, "controlnet_conditioning_scale": 0.0}
    return {
        "ip_adapter_start": window.start,
        "ip_adapter_end": window.end,
        "control_guidance_start": window.start,
        "control_guidance_end": window.end,
    }
