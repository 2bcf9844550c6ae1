"""InstantIDPipeline: loads a model, and turns faces and prompts into pictures.

Argument names follow diffusers and the official InstantID pipeline.
"""

import dataclasses
import functools
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image
from tqdm import tqdm

from instantid_jax.cache import keep_compiled_programs
from instantid_jax.components import Model
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.face.face import Face
from instantid_jax.pictures import Picture, read_picture
from instantid_jax.pipeline import conditioning, inputs, programs, sampling
from instantid_jax.pipeline.loaded import LoadedModel
from instantid_jax.runs.trained import check_raw, find_published_or_trained
from instantid_jax.weights.layouts import add_parts, find_model

OUTPUT_TYPES = ("pil", "np", "latent")


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a call made.

    Attributes:
      images: a list of PIL pictures, or for "np" [B, H, W, 3] float32 in [0, 1]; None for "latent".
      latents: [B, H/8, W/8, 4] float32, scaled as the VAE's.
      seeds: the seed of each picture.
    """

    images: list[Image.Image] | np.ndarray | None
    latents: np.ndarray
    seeds: list[int]


class InstantIDPipeline:
    """Makes pictures of people with a loaded model."""

    def __init__(
        self,
        model: Model,
        *,
        dtype: jnp.dtype | str | None,
        vae_dtype: jnp.dtype | str | None,
        mesh: Mesh | None = None,
    ):
        """Loads the weights. See `load` for the arguments."""
        self.model = LoadedModel(model, dtype=dtype, vae_dtype=vae_dtype, mesh=mesh)
        self._compiled: set[tuple] = set()

    @classmethod
    def load(
        cls,
        sdxl: str | None = None,
        instantid: str | None = None,
        *,
        model: str | None = None,
        controlnets: Sequence[str] = (),
        vae: str | None = None,
        tokenizers: str | None = None,
        dtype: jnp.dtype | str | None = None,
        vae_dtype: jnp.dtype | str | None = None,
        variant: str | None = None,
        mesh: Mesh | None = None,
        raw: bool = False,
    ) -> Self:
        """Loads a model from PyTorch's files, or from a folder that `python -m convert` made.

        Args:
          sdxl: SDXL base: a diffusers folder, a single `.safetensors` or `.ckpt` file in the
            original layout, or a hub id.
          instantid: the adapter and `ControlNetModel/`: a folder or a hub id; or the folder of a
            training run, whose newest checkpoint is taken.
          model: a converted folder, in place of both.
          controlnets: further ControlNets, each a folder or a hub id.
          vae: a VAE in place of SDXL's own: a folder or a hub id.
          tokenizers: for a single file, a folder or hub id with `tokenizer/` and `tokenizer_2/`;
            SDXL base's by default.
          dtype: float32, bfloat16 or float16; None is bfloat16 on accelerators, float32 on a CPU.
          vae_dtype: the same for the VAE; None is `dtype`.
          variant: "fp16" takes the files so named.
          mesh: of `instantid_jax.sampling_mesh`, to sample on several devices of this process.
          raw: of a training run, the parameters themselves where there is their moving average.
        Raises:
          InputError: if something is missing, damaged, of another kind or does not fit.
        """
        keep_compiled_programs()
        check_raw(raw, instantid)
        if (model is None) == (sdxl is None) or (sdxl is None) != (instantid is None):
            raise InputError(
                f"sdxl={sdxl!r}, instantid={instantid!r}, model={model!r}: give sdxl and "
                "instantid, or model alone"
            )
        if model is not None and tokenizers is not None:
            raise InputError(
                f"tokenizers={tokenizers!r} with model={model!r}: a converted model has its own; "
                "leave them out"
            )
        if model is None:
            found = find_model(
                sdxl,
                instantid,
                controlnets=controlnets,
                vae=vae,
                tokenizers=tokenizers,
                variant=variant,
                find=functools.partial(find_published_or_trained, raw=raw),
            )
        else:
            from instantid_jax.checkpoint import open_model  # Orbax is slow to import

            found = add_parts(open_model(Path(model)), controlnets, vae, variant=variant)
        return cls(found, dtype=dtype, vae_dtype=vae_dtype, mesh=mesh)

    def analyze(
        self, photo: Picture, face_pack: str = "antelopev2", download: bool = False
    ) -> Face:
        """Finds the largest face in a photo, with insightface; see `FaceAnalyzer`."""
        return _analyzer(str(face_pack), download).analyze(photo)

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        face: Face | Sequence[Face] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float = 5.0,
        ip_adapter_scale: float = 0.8,
        controlnet_conditioning_scale: float | Sequence[float] = 0.8,
        control_guidance_start: float | Sequence[float] = 0.0,
        control_guidance_end: float | Sequence[float] = 1.0,
        guess_mode: bool = False,
        clip_skip: int | None = None,
        pose: Face | Picture | Sequence[Face | Picture] | None = None,
        control_images: Sequence[Picture | Sequence[Picture]] = (),
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] = (0, 0),
        target_size: tuple[int, int] | None = None,
        negative_original_size: tuple[int, int] | None = None,
        negative_crops_coords_top_left: tuple[int, int] = (0, 0),
        negative_target_size: tuple[int, int] | None = None,
        scheduler: str | None = None,
        eta: float = 0.0,
        seed: int | Sequence[int] = 0,
        num_images_per_prompt: int = 1,
        latents: np.ndarray | None = None,
        output_type: str = "pil",
        prompt_2: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        prompt_embeds: np.ndarray | None = None,
        pooled_prompt_embeds: np.ndarray | None = None,
        negative_prompt_embeds: np.ndarray | None = None,
        negative_pooled_prompt_embeds: np.ndarray | None = None,
        image_embeds: np.ndarray | None = None,
        image: Picture | Sequence[Picture] | None = None,
        kps: np.ndarray | None = None,
        progress: bool = True,
        **unknown: Any,
    ) -> Result:
        """Makes pictures of a person.

        `prompt`, `face`, `pose`, `negative_prompt` and `seed` may be lists of one length, for a
        batch of different pictures.

        Args:
          face: whom; its embedding, and where `pose` is None its keypoints.
          height, width: multiples of 8; without them, the photo's aspect ratio at the size the
            model was trained for (a long side of 1024 for SDXL), sides floored to 64.
          num_inference_steps: from 1.
          guidance_scale: above 1, classifier-free guidance; otherwise none, at half the cost.
          ip_adapter_scale: strength of the Image Adapter.
          controlnet_conditioning_scale, control_guidance_start, control_guidance_end: strength and
            window (shares of the steps) of IdentityNet, or a list with the further nets' behind.
          guess_mode: the ControlNets lead, with or without a prompt.
          clip_skip: layers of the text encoders left out beside the last, for the prompt.
          pose: another face, or photo, whose keypoints are used; a photo's are found with
            antelopev2, of another face pack pass what `analyze` gives.
          control_images: for each further ControlNet its picture, or a list with one a prompt.
          original_size, crops_coords_top_left, target_size: SDXL's micro-conditioning, (height,
            width); the negative ones count when both sizes are given.
          scheduler: a name of `diffusion.samplers.SAMPLERS`; None is the checkpoint's own.
          eta: for ddim.
          seed: 0 to 2**32 - 1. Picture j of a prompt has seed + j.
          latents: unit-variance noise [B, H/8, W/8, 4] in place of the seed's.
          output_type: "pil", "np" or "latent".
          image_embeds: [512] or [B, 512], in place of `face`, with `image` (keypoints drawn), `kps`
            ([5, 2], pixels of the output) or `pose`.
          progress: whether to show a progress line on a terminal.
        Raises:
          InputError: for arguments that cannot be used, and for latents that are not finite.
        """
        if unknown:
            names = [name for name in inspect.signature(self.__call__).parameters]
            inputs.refuse_unknown(unknown, names[:-1])
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type={output_type!r}: expected one of {OUTPUT_TYPES}")
        seed = list(seed) if np.ndim(seed) else seed
        count = inputs.batch_size(
            prompt=prompt,
            face=face,
            negative_prompt=negative_prompt,
            seed=seed,
            prompt_2=prompt_2,
            negative_prompt_2=negative_prompt_2,
            pose=pose,
            prompt_embeds=_rows(prompt_embeds, 3),
            image_embeds=_rows(image_embeds, 2),
        )
        # All arguments are looked at before anything is computed: compiling can take minutes.
        model = self.model
        networks = model.networks
        faces = conditioning.check_faces(face, image_embeds, count)
        guidance = inputs.check_number("guidance_scale", guidance_scale, 0) > 1
        sampler = make_sampler(model.schedule, scheduler, num_inference_steps, eta)
        n = inputs.check_whole("num_images_per_prompt", num_images_per_prompt, 1, 1024)
        seeds = [
            inputs.check_whole("seed", each, 0, 2**32 - n) + j
            for each in inputs.batched(seed, count, "seed")
            for j in range(n)
        ]
        ip_adapter_scale = inputs.check_number("ip_adapter_scale", ip_adapter_scale, 0)
        scales = inputs.residual_scales(
            [network.config.residuals for network in networks.controlnets],
            len(sampler),
            controlnet_conditioning_scale,
            control_guidance_start,
            control_guidance_end,
            guess_mode=guess_mode,
            guidance=guidance,
            batch=count * n,
        )
        embeddings = conditioning.embeddings_of(
            faces, image_embeds, networks.image_proj.config.embedding_dim
        )
        size = self._size(height, width, faces, image)
        model.check_mesh(size, len(seeds), guidance)
        ids = inputs.time_ids(size, original_size, crops_coords_top_left, target_size)
        negative_ids = ids
        if negative_original_size is not None and negative_target_size is not None:
            negative_ids = inputs.time_ids(
                size,
                negative_original_size,
                negative_crops_coords_top_left,
                negative_target_size,
                "negative_",
            )
        shape = (size[0] // 8, size[1] // 8, networks.unet.config.in_channels)
        noise = shape if latents is None else conditioning.unit_noise(latents, len(seeds), shape)
        positive, skip = model.prompts(
            count,
            (prompt, prompt_2),
            (prompt_embeds, pooled_prompt_embeds),
            "prompt",
            clip_skip,
        )
        if positive is None:
            raise InputError("give prompt or prompt_embeds")
        negative = None
        if guidance:
            # diffusers leaves no layer out for the negative prompt, whatever clip_skip says.
            negative, _ = model.prompts(
                count,
                (negative_prompt, negative_prompt_2),
                (negative_prompt_embeds, negative_pooled_prompt_embeds),
                "negative_prompt",
            )
            if negative is None and not model.force_zeros_for_empty_prompt:
                negative, _ = model.prompts(count, ("", ""), (None, None), "negative_prompt")
        control_pictures = conditioning.further_pictures(
            control_images, len(networks.controlnets) - 1, count, size
        )
        several = isinstance(pose, list | tuple)
        posed = [self._pose(each) for each in pose] if several else self._pose(pose)
        poses = inputs.batched(posed, count, "pose")
        pictures = (
            conditioning.keypoint_pictures(faces, poses, kps, image, size),
            *control_pictures,
        )
        time_ids = [negative_ids] * count + [ids] * count if guidance else [ids] * count

        with (
            model.on_devices(model.dtype),
            tqdm(total=len(sampler), unit="step", disable=None if progress else True) as bar,
        ):
            seen = (sampler.rule, guidance, skip, count, n, size)
            bar.set_description("preparing" if seen in self._compiled else "compiling")
            text = model.encode_text(positive, skip)
            conditions = programs.prepare(
                networks,
                n,
                model.denoiser_params,
                text,
                model.encode_negative(negative, text) if guidance else None,
                np.stack(time_ids),
                model.encode_id(embeddings),
                model.empty_id,
                np.float32(ip_adapter_scale),
                pictures,
            )
            final = sampling.denoise(
                networks,
                model.denoiser_params,
                sampler,
                conditions,
                scales,
                guidance_scale if guidance else None,
                seeds,
                noise,
                bar,
            )
            self._compiled.add(seen)
            images = None
            if output_type != "latent":
                of_pixels = np.dtype(np.uint8 if output_type == "pil" else np.float32)
                seen = ("decode", final.shape, of_pixels)
                bar.set_description("decoding" if seen in self._compiled else "compiling")
                with model.on_devices(model.vae_dtype):
                    images = sampling.decode(
                        networks,
                        model.params["vae"],
                        final,
                        seeds,
                        of_pixels,
                        model.pictures_at_once,
                    )
                self._compiled.add(seen)
        if output_type == "pil":
            images = [Image.fromarray(each) for each in images]
        return Result(images, np.asarray(final), seeds)

    def _pose(self, pose: Face | Picture | None) -> Face | None:
        return pose if pose is None or isinstance(pose, Face) else self.analyze(pose)

    def _size(
        self,
        height: int | None,
        width: int | None,
        faces: Sequence[Face | None],
        image: Picture | Sequence[Picture] | None,
    ) -> tuple[int, int]:
        if height is None and width is None and image is not None:
            first = image[0] if isinstance(image, list | tuple) else image
            shape = read_picture(first).shape
            return inputs.check_size(shape[0], shape[1])
        side = 8 * self.model.networks.unet.config.sample_size
        return inputs.choose_size(height, width, faces, side)


@functools.cache
def _analyzer(face_pack: str, download: bool) -> FaceAnalyzer:
    return FaceAnalyzer(face_pack, download=download)


def _rows(value: np.ndarray | None, rank: int) -> list | None:
    """An array's rows as a list, so that it counts in the batch; None where it has but one."""
    shape = np.shape(value) if value is not None else ()
    return list(range(shape[0])) if len(shape) == rank and shape[0] > 1 else None
