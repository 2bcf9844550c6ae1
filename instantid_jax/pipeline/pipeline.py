"""InstantIDPipeline: loads a model, and turns faces and prompts into images.

Argument names follow diffusers and the official InstantID pipeline.
"""

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from instantid_jax import embedded
from instantid_jax.cache import keep_compiled_programs
from instantid_jax.compilation import reporting_compiles
from instantid_jax.components import ModelSource
from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.face.face import Face
from instantid_jax.face.packs import ANTELOPEV2_RECOGNIZER
from instantid_jax.images import ImageInput
from instantid_jax.pipeline import stages
from instantid_jax.pipeline.model import LoadedModel
from instantid_jax.pipeline.observer import Bar, Observer, Several, StepEndCallback
from instantid_jax.pipeline.plan import Plan, resolve
from instantid_jax.pipeline.result import Result, provenance_of
from instantid_jax.pipeline.sources import Sources, takes_sources
from instantid_jax.request.fast import with_preset
from instantid_jax.request.request import Request
from instantid_jax.request.split import split, takes_requests
from instantid_jax.request.styles import Style, with_style
from instantid_jax.runs.recognizers import recognizer_of
from instantid_jax.weights.embeddings import EmbeddingSource, parse_embeddings
from instantid_jax.weights.lora.sources import Lora, parse_loras

logger = logging.getLogger(__name__)

OUTPUT_TYPES = ("pil", "np", "latent")


class InstantIDPipeline:
    """Makes images of people with a loaded model."""

    def __init__(
        self,
        model: ModelSource,
        *,
        dtype: jnp.dtype | str | None = None,
        vae_dtype: jnp.dtype | str | None = None,
        mesh: Mesh | None = None,
        vae_tiling: bool | int | None = None,
        offload: bool = False,
        sources: Sources | None = None,
    ):
        """Loads the weights of a model that was found. See `load` for the other arguments.

        Args:
          sources: where it was found, to be recorded with images; None is in memory.
        """
        loras = () if sources is None else parse_loras(sources.loras)
        embeddings = () if sources is None else parse_embeddings(sources.embeddings)
        self.model = LoadedModel(
            model,
            dtype=dtype,
            vae_dtype=vae_dtype,
            mesh=mesh,
            vae_tiling=vae_tiling,
            offload=offload,
            loras=loras,
            embeddings=embeddings,
        )
        self.sources = sources

    @classmethod
    @takes_sources
    def load(
        cls,
        sdxl: str | None = None,
        instantid: str | None = None,
        *,
        dtype: jnp.dtype | str | None = None,
        vae_dtype: jnp.dtype | str | None = None,
        mesh: Mesh | None = None,
        vae_tiling: bool | int | None = None,
        offload: bool = False,
        **sources: Any,
    ) -> Self:
        """Loads a model from PyTorch's files, or from a folder that `python -m convert` made.

        Without weights it loads the embedded miniature, with the face pack that belongs to it.

        Args:
          sdxl, instantid, **sources: see `pipeline.sources.Sources`.
          dtype: float32, bfloat16 or float16; None is bfloat16 on accelerators, float32 on a CPU.
          vae_dtype: the same for the VAE; None is `dtype`.
          mesh: of `instantid_jax.sampling_mesh`, to sample on several devices of this process.
          vae_tiling: True for a VAE that takes large images in overlapping tiles, which changes
            them a little, or the tiles' side in pixels instead of 512. None does where an
            accelerator's memory could not hold an image whole.
          offload: keep text encoders, ControlNets, refiner and VAE in the host's memory, and on the
            devices only while a call uses them. Images have the same bits and take longer.
        Raises:
          InputError: if something is missing, damaged, of another kind or does not fit.
        """
        keep_compiled_programs()
        chosen = Sources.from_arguments({"sdxl": sdxl, "instantid": instantid, **sources})
        if chosen.embedded:
            logger.warning(embedded.NOTICE)
        return cls(
            chosen.find(),
            dtype=dtype,
            vae_dtype=vae_dtype,
            mesh=mesh,
            vae_tiling=vae_tiling,
            offload=offload,
            sources=chosen,
        )

    def set_loras(self, loras: Sequence[str | os.PathLike[str] | Lora]) -> None:
        """Merges LoRAs into the weights, instead of those that were merged before.

        Compiles nothing; without LoRAs, the weights have the bits of their files again.

        Args:
          loras: see `pipeline.sources.Sources`.
        Raises:
          InputError: if one is missing, damaged, or belongs to another model; nothing changes then.
        """
        chosen = parse_loras(loras)
        self.model.set_loras(chosen)
        if self.sources is not None:
            self.sources = dataclasses.replace(self.sources, loras=chosen)

    def set_embeddings(
        self, embeddings: Sequence[str | os.PathLike[str] | EmbeddingSource]
    ) -> None:
        """Takes textual inversions, instead of those before; compiles nothing.

        Args:
          embeddings: see `pipeline.sources.Sources`.
        Raises:
          InputError: if one is missing, damaged, or belongs to another model; nothing changes then.
        """
        chosen = parse_embeddings(embeddings)
        self.model.set_embeddings(chosen)
        if self.sources is not None:
            self.sources = dataclasses.replace(self.sources, embeddings=chosen)

    @property
    def face_pack(self) -> str:
        """The face pack that the model was trained with."""
        own = self.sources is not None and self.sources.embedded
        return str(embedded.FACE_PACK) if own else "antelopev2"

    @functools.cached_property
    def recognizer(self) -> str | None:
        """How the SHA-256 of the recognizer begins with whose faces the model was trained.

        None if it is not known.
        """
        if self.sources is None:
            return None
        return recognizer_of(
            str(self.sources.instantid or self.sources.model or embedded.INSTANTID)
        )

    def analyze(
        self, photo: ImageInput, face_pack: str | None = None, download: bool = False
    ) -> Face:
        """Finds the largest face in a photo, with insightface; see `FaceAnalyzer`.

        Args:
          face_pack: a folder or a name; None is the model's: antelopev2, or the miniature's own.
        """
        return _analyzer(str(face_pack or self.face_pack), download).analyze(photo)

    @takes_requests
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        fast: str | None = None,
        style: str | Style | None = None,
        output_type: str = "pil",
        progress: bool = True,
        observer: Observer | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **arguments: Any,
    ) -> Result:
        """Makes images of a person, or of several persons an image each.

        `prompt`, `face`, `pose`, `negative_prompt`, `seed` and the other inputs of a prompt may be
        lists of one length, for a batch of different images.

        Args:
          prompt, **arguments: see `Request`. As in the official pipelines, `image` with `strength`,
            `denoising_start` or `mask_image` is what to begin with, and `control_image` then the
            image of drawn keypoints (`Request.kps_image`); otherwise `image` is that.
            `control_images` has for each ControlNet after IdentityNet an image, or a list with one
            for each prompt. `pose` may be a photo.
          fast: preset of a few-step model: scheduler, steps and guidance where these are not given;
            one of lightning-4, lightning-8, hyper-8-cfg, lcm, tcd, dmd2, turbo and miniature-4.
          style: adds words to the prompts, which are recorded with them: one of Watercolor, Film
            Noir, Neon, Jungle, Mars, Vibrant Color, Snow and Line art, or a Style, such as one of
            `request.style_files.read_styles`.
          output_type: "pil", "np" or "latent".
          progress: whether to show a progress line on a terminal.
          observer: hears of stages, compilations and steps; may replace latents or cancel.
          callback_on_step_end: as in diffusers, with latents as arrays, channels last.
          callback_on_step_end_tensor_inputs: as in diffusers; only latents are known.
        Raises:
          InputError: for arguments that cannot be used, and for latents that are not finite.
        """
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise InputError(f"callback_on_step_end={callback_on_step_end!r}: expected a function")
        if callback_on_step_end_tensor_inputs not in ([], (), ["latents"], ("latents",)):
            raise InputError(
                f"callback_on_step_end_tensor_inputs={callback_on_step_end_tensor_inputs!r}: only "
                "latents can be passed to callback_on_step_end"
            )
        if fast is not None:
            arguments = with_preset(fast, arguments)
            if self.sources is not None:
                self.sources.check_preset(fast)
        if arguments.get("pose") is not None:
            arguments["pose"] = self._poses(arguments["pose"])
        arguments = {"prompt": prompt, **arguments}
        requests = split(arguments if style is None else with_style(style, arguments))
        with contextlib.ExitStack() as stack:
            observers = [] if observer is None else [observer]
            if progress:
                observers.append(stack.enter_context(Bar()))
            if callback_on_step_end is not None:
                observers.append(StepEndCallback(self, callback_on_step_end))
            return self.run(requests, output_type=output_type, observer=Several(*observers))

    def run(
        self,
        requests: Sequence[Request],
        *,
        output_type: str = "pil",
        observer: Observer | None = None,
    ) -> Result:
        """Makes the images of requests, in one batch.

        Their samplers, steps, scales and strengths may differ, their sizes may not.

        Raises:
          InputError: for requests that the model cannot serve or that do not fit one batch, and for
            latents that are not finite.
        """
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type={output_type!r}: expected one of {OUTPUT_TYPES}")
        observer = Several() if observer is None else Several(observer)
        plan = self.resolve(requests, decoded=output_type != "latent")
        with reporting_compiles(observer.on_compile):
            with self.model.keeping("controlnets"):
                observer.on_stage("encode")
                conditions = stages.encode(self.model, plan)
                observer.on_stage("sample")
                latents = stages.sample(self.model, plan, conditions, observer)
            images = None
            if output_type != "latent":
                observer.on_stage("decode")
                images = self._decode(plan, latents, output_type)
        provenance = provenance_of(self.model, plan, self.sources)
        return Result(images, np.asarray(latents), plan.seeds, provenance)

    def resolve(self, requests: Sequence[Request], *, decoded: bool = True) -> Plan:
        """Checks requests as `run` does, and finds the face in an image to begin with.

        Args:
          decoded: whether the latents become images. Their memory is checked then.
        Raises:
          InputError: for requests that the model cannot serve or that do not fit one batch.
        """
        if isinstance(requests, Request) or not isinstance(requests, Iterable):
            raise InputError(f"requests is a {type(requests).__name__}: give a list of Requests")
        plan = resolve(self.model, [self.with_keypoints(request) for request in requests])
        if decoded:
            self.model.check_memory(plan.size)
        self._warn_of_recognizers(plan.requests)
        self._warn_of_size(plan.size)
        return plan

    def _warn_of_size(self, size: tuple[int, int]) -> None:
        height, width = size
        least, largest = self.model.sides or (0, max(size))
        if min(size) < least or max(size) > largest:
            logger.warning(
                "width %d, height %d: the model was trained on images with sides of %d to %d "
                "pixels, and likely deforms what it draws in others",
                width,
                height,
                least,
                largest,
            )

    def _warn_of_recognizers(self, requests: Sequence[Request]) -> None:
        own = self.recognizer
        if own is None or self.sources is None:
            return
        usual = self.sources.embedded or own.startswith(ANTELOPEV2_RECOGNIZER)
        pack = Path(self.face_pack).name if usual else "the face pack of its training data"
        others = set()
        for face in (request.face for request in requests if request.face is not None):
            named_otherwise = usual and face.face_pack not in (None, pack)
            differs = not face.recognizer.startswith(own) if face.recognizer else named_otherwise
            if differs:
                others.add(face.face_pack)
        for other in sorted(map(str, others)):
            logger.warning(
                "a face was measured with the face pack %s, and the model was trained with another "
                "recognizer (SHA-256 %s...), so it will show somebody else: measure the photo "
                "again with %s",
                other,
                own[:8],
                pack,
            )

    def _decode(self, plan: Plan, latents: Any, output_type: str) -> list[Image.Image] | np.ndarray:
        dtype = np.dtype(np.float32 if output_type == "np" else np.uint8)
        made = stages.decode(self.model, plan, latents, dtype)
        if output_type == "np":
            return np.stack(made)
        return [Image.fromarray(each) for each in made]

    def with_keypoints(self, request: Request) -> Request:
        """A request with the pose of the face in its image, if nothing else gives keypoints."""
        if not isinstance(request, Request) or request.image is None:
            return request
        if any(getattr(request, name) is not None for name in ("pose", "kps", "kps_image")):
            return request
        return dataclasses.replace(request, pose=self.analyze(request.image))

    def _poses(self, pose: Any) -> Any:
        """Faces instead of photos, alone or in a list."""
        if isinstance(pose, list | tuple):
            return [self._poses(each) for each in pose]
        return pose if pose is None or isinstance(pose, Face) else self.analyze(pose)


@functools.cache
def _analyzer(face_pack: str, download: bool) -> FaceAnalyzer:
    return FaceAnalyzer(face_pack, download=download)
