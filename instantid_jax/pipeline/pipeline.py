"""InstantIDPipeline: loads a model, and turns faces and prompts into pictures.

Argument names follow diffusers and the official InstantID pipeline.
"""

import collections
import dataclasses
import functools
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from instantid_jax.cache import keep_compiled_programs
from instantid_jax.checkpoint import open_model
from instantid_jax.components import Model
from instantid_jax.diffusion.samplers import Sampler, make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.face.face import Face
from instantid_jax.params import Params
from instantid_jax.pictures import Picture
from instantid_jax.pipeline import conditioning, inputs, programs
from instantid_jax.prompt import PromptTokenizer
from instantid_jax.weights.layouts import add_parts, find_model

# fold_in(seed, step) draws the noise of a step; this, which is no step, the initial latents.
INITIAL = 2**32 - 1
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
    """A loaded model."""

    def __init__(
        self, model: Model, *, dtype: jnp.dtype | str | None, vae_dtype: jnp.dtype | str | None
    ):
        """Loads the weights. See `load` for the arguments."""
        on_cpu = jax.default_backend() == "cpu"
        dtype = compute_dtype("dtype", dtype, jnp.float32 if on_cpu else jnp.bfloat16)
        vae_dtype = compute_dtype("vae_dtype", vae_dtype, dtype)
        self.schedule = ScheduleConfig.from_dict(model.scheduler)
        make_sampler(self.schedule, None, 1)
        self.tokenizers = tuple(PromptTokenizer(folder) for folder in model.tokenizers)
        parts = model.components
        self.networks = programs.Networks(
            unet=parts["unet"].network,
            controlnets=tuple(parts[name].network for name in model.controlnets),
            image_proj=parts["image_proj"].network,
            vae=parts["vae"].network,
            text_encoder=parts["text_encoder"].network,
            text_encoder_2=parts["text_encoder_2"].network,
        )
        self.params: dict[str, Params | tuple[Params, ...]] = {
            name: parts[name].load(vae_dtype if name == "vae" else dtype)
            for name in ("image_proj", "vae", "text_encoder", "text_encoder_2")
        }
        self.params["unet"] = parts["unet"].load(dtype) | parts["ip_adapter"].load(dtype)
        self.params["controlnets"] = tuple(parts[name].load(dtype) for name in model.controlnets)
        self.force_zeros_for_empty_prompt = model.force_zeros_for_empty_prompt
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
    ) -> Self:
        """Loads a model from PyTorch's files, or from a folder that `python -m convert` made.

        Args:
          sdxl: SDXL base: a diffusers folder, a single `.safetensors` or `.ckpt` file in the
            original layout, or a hub id.
          instantid: the adapter and `ControlNetModel/`: a folder or a hub id.
          model: a converted folder, in place of both.
          controlnets: further ControlNets, each a folder or a hub id.
          vae: a VAE in place of SDXL's own: a folder or a hub id.
          tokenizers: for a single file, a folder or hub id with `tokenizer/` and `tokenizer_2/`;
            SDXL base's by default.
          dtype: float32, bfloat16 or float16; None is bfloat16 on accelerators, float32 on a CPU.
          vae_dtype: the same for the VAE; None is `dtype`.
          variant: "fp16" takes the files so named.
        Raises:
          InputError: if something is missing, damaged, of another kind or does not fit.
        """
        keep_compiled_programs()
        if (model is None) == (sdxl is None) or (sdxl is None) != (instantid is None):
            raise InputError(
                f"sdxl={sdxl!r}, instantid={instantid!r}, model={model!r}: give sdxl and "
                "instantid, or model alone"
            )
        if model is None:
            found = find_model(
                sdxl,
                instantid,
                controlnets=controlnets,
                vae=vae,
                tokenizers=tokenizers,
                variant=variant,
            )
        else:
            found = add_parts(open_model(Path(model)), controlnets, vae, variant=variant)
        return cls(found, dtype=dtype, vae_dtype=vae_dtype)

    def analyze(self, photo: Picture, face_pack: str = "antelopev2") -> Face:
        """Finds the largest face in a photo, with insightface; see `FaceAnalyzer`."""
        return _analyzer(str(face_pack)).analyze(photo)

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
          pose: another face, or photo, whose keypoints are used.
          control_images: for each further ControlNet its picture, or a list with one a prompt.
          original_size, crops_coords_top_left, target_size: SDXL's micro-conditioning, (height,
            width); the negative ones count when both sizes are given.
          scheduler: a name of `diffusion.samplers.SAMPLERS`; None is the checkpoint's own.
          eta: for ddim.
          seed: 0 to 2**32 - 2. Picture j of a prompt has seed + j.
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
        faces = self._check_faces(face, image_embeds, count)
        poses = [self._pose(each) for each in inputs.batched(pose, count, "pose")]
        size = self._size(height, width, faces, image)
        guidance = inputs.check_number("guidance_scale", guidance_scale, 0) > 1
        sampler = make_sampler(self.schedule, scheduler, num_inference_steps, eta)
        n = inputs.check_whole("num_images_per_prompt", num_images_per_prompt, 1, 1024)
        seeds = [
            inputs.check_whole("seed", each, 0, INITIAL - 1) + j
            for each in inputs.batched(seed, count, "seed")
            for j in range(n)
        ]

        text, pooled = self._text(
            count,
            guidance,
            (prompt, prompt_2),
            (negative_prompt, negative_prompt_2),
            (prompt_embeds, pooled_prompt_embeds),
            (negative_prompt_embeds, negative_pooled_prompt_embeds),
            clip_skip,
        )
        embeddings = conditioning.embeddings_of(
            faces, image_embeds, self.networks.image_proj.config.embedding_dim
        )
        id_tokens = self._encode_id(embeddings)
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
        pictures = [
            conditioning.keypoint_pictures(faces, poses, kps, image, size),
            *conditioning.further_pictures(
                control_images, len(self.networks.controlnets) - 1, count, size
            ),
        ]
        repeat = functools.partial(np.repeat, repeats=n, axis=0)
        repeat_rows = functools.partial(jnp.repeat, repeats=n, axis=0)
        if guidance:
            id_tokens = jnp.concatenate(
                [jnp.broadcast_to(self._empty_id, id_tokens.shape), id_tokens]
            )
        time_ids = np.stack([negative_ids] * count + [ids] * count if guidance else [ids] * count)
        conditions = programs.prepare(
            self.networks,
            guidance,
            self._denoiser_params,
            repeat_rows(text),
            repeat_rows(pooled),
            repeat(time_ids),
            repeat_rows(id_tokens),
            np.float32(inputs.check_number("ip_adapter_scale", ip_adapter_scale, 0)),
            tuple(repeat(picture) for picture in pictures),
        )
        scales = inputs.residual_scales(
            [_residuals(network) for network in self.networks.controlnets],
            len(sampler),
            controlnet_conditioning_scale,
            control_guidance_start,
            control_guidance_end,
            guess_mode=guess_mode,
            guidance=guidance,
            batch=count * n,
        )
        final = self._denoise(
            sampler,
            self._initial_latents(latents, seeds, size),
            conditions,
            scales,
            guidance_scale if guidance else None,
            seeds,
            progress,
        )
        images = None if output_type == "latent" else self._decode(final, seeds, output_type)
        return Result(images, np.asarray(final), seeds)

    @property
    def _denoiser_params(self) -> dict[str, Params | tuple[Params, ...]]:
        return {name: self.params[name] for name in ("unet", "controlnets")}

    @functools.cached_property
    def _empty_id(self) -> jax.Array:
        """ID tokens of nobody: the Resampler's, of an embedding of zeros. They never change."""
        return self._encode_id(
            np.zeros((1, self.networks.image_proj.config.embedding_dim), np.float32)
        )

    def _encode_id(self, embeddings: np.ndarray) -> jax.Array:
        return programs.encode_id(self.networks.image_proj, self.params["image_proj"], embeddings)

    def _check_faces(
        self, face: Face | Sequence[Face] | None, image_embeds: np.ndarray | None, count: int
    ) -> list[Face | None]:
        if (face is None) == (image_embeds is None):
            raise InputError("give face or image_embeds, one of them")
        faces = inputs.batched(face, count, "face")
        for each in faces:
            if face is not None and not isinstance(each, Face):
                raise InputError(
                    f"face is a {type(each).__name__}: expected a Face; of a photo, "
                    "pipe.analyze(photo) makes one"
                )
        return faces

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
            shape = inputs.read_picture(first).shape
            return inputs.check_size(shape[0], shape[1])
        side = 8 * self.networks.unet.config.sample_size
        return inputs.choose_size(height, width, faces, side)

    def _text(
        self,
        count: int,
        guidance: bool,
        prompts: tuple,
        negative_prompts: tuple,
        embeds: tuple,
        negative_embeds: tuple,
        clip_skip: int | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Hidden states [R, L, D] and pooled states [R, P], negative rows first under guidance."""
        skip = 0 if clip_skip is None else inputs.check_whole("clip_skip", clip_skip, 0, 1000)
        if embeds[0] is None and prompts[0] is None:
            raise InputError("give prompt or prompt_embeds")
        text, pooled = conditioning.text_rows(
            self._encode_text, _both(prompts, count, "prompt"), embeds, skip, count, "prompt"
        )
        if not guidance:
            return text, pooled
        nothing = negative_prompts == (None, None) and negative_embeds == (None, None)
        if nothing and self.force_zeros_for_empty_prompt:
            return (
                jnp.concatenate([jnp.zeros_like(text), text]),
                jnp.concatenate([jnp.zeros_like(pooled), pooled]),
            )
        # diffusers leaves no layer out for the negative prompt, whatever clip_skip says.
        negative_text, negative_pooled = conditioning.text_rows(
            self._encode_text,
            ([""] * count,) * 2 if nothing else _both(negative_prompts, count, "negative_prompt"),
            negative_embeds,
            0,
            count,
            "negative_prompt",
        )
        if negative_text.shape != text.shape:
            raise InputError(
                f"prompt and negative prompt have embeddings of shapes {text.shape} and "
                f"{negative_text.shape}: expected the same"
            )
        return (
            jnp.concatenate([negative_text.astype(text.dtype), text]),
            jnp.concatenate([negative_pooled.astype(pooled.dtype), pooled]),
        )

    def _encode_text(
        self, prompts: Sequence[str], prompts_2: Sequence[str], clip_skip: int
    ) -> tuple[jax.Array, jax.Array]:
        """Hidden states of both text encoders side by side, and the pooled state of the second."""
        encoded = [
            programs.encode_text(
                getattr(self.networks, name), self.params[name], tokenize(texts), clip_skip
            )
            for name, tokenize, texts in (
                ("text_encoder", self.tokenizers[0], prompts),
                ("text_encoder_2", self.tokenizers[1], prompts_2),
            )
        ]
        hidden = jnp.concatenate([each.hidden_states for each in encoded], axis=-1)
        return hidden, encoded[1].pooled

    def _initial_latents(
        self, latents: np.ndarray | None, seeds: Sequence[int], size: tuple[int, int]
    ) -> jax.Array:
        """Unit noise [B, H/8, W/8, 4], given or drawn."""
        shape = (size[0] // 8, size[1] // 8, self.networks.unet.config.in_channels)
        if latents is None:
            return programs.draw_noise(np.array(seeds, np.uint32), np.uint32(INITIAL), shape)
        if np.shape(latents) != (len(seeds), *shape):
            raise InputError(
                f"latents have shape {np.shape(latents)}: expected {(len(seeds), *shape)}, "
                "unit-variance noise with channels last"
            )
        return jnp.asarray(latents, jnp.float32)

    def _denoise(
        self,
        sampler: Sampler,
        noise: jax.Array,
        conditions: programs.Conditions,
        scales: np.ndarray,
        guidance_scale: float | None,
        seeds: Sequence[int],
        progress: bool,
    ) -> jax.Array:
        """Runs the steps, two in flight; returns the final latents, [B, H/8, W/8, 4]."""
        guidance = guidance_scale is not None
        step = functools.partial(
            programs.denoise, self.networks, sampler.rule, guidance, self._denoiser_params
        )
        state = sampler.rule.init(noise * np.float32(sampler.init_noise_sigma))
        in_flight: collections.deque[jax.Array] = collections.deque()
        seen = (sampler.rule, guidance, sampler.stochastic, noise.shape)
        with tqdm(total=len(sampler), unit="step", disable=None if progress else True) as bar:

            def finish_step() -> None:
                finite = np.asarray(in_flight.popleft())
                _check_finite(finite, seeds, f"the latents after step {bar.n + 1}")
                bar.update()

            if seen not in self._compiled:
                bar.set_description("compiling")
            for i in range(len(sampler)):
                drawn = None
                if sampler.stochastic:
                    drawn = programs.draw_noise(
                        np.array(seeds, np.uint32), np.uint32(i), noise.shape[1:]
                    )
                state, finite = step(
                    state,
                    conditions,
                    sampler.row(i),
                    sampler.timesteps[i],
                    np.float32(guidance_scale or 1),
                    scales[i],
                    drawn,
                )
                if i == 0:
                    self._compiled.add(seen)
                    bar.set_description("sampling")
                in_flight.append(finite)
                if len(in_flight) > 2:
                    finish_step()
            while in_flight:
                finish_step()
        return state["sample"]

    def _decode(
        self, latents: jax.Array, seeds: Sequence[int], output_type: str
    ) -> list[Image.Image] | np.ndarray:
        # One picture at a time: decoding takes more memory than all else.
        pixels = np.concatenate(
            [
                np.asarray(
                    programs.decode(self.networks.vae, self.params["vae"], latents[i : i + 1])
                )
                for i in range(len(latents))
            ]
        )
        _check_finite(np.isfinite(pixels).all(axis=(1, 2, 3)), seeds, "the decoded pixels")
        if output_type == "np":
            return pixels
        return [Image.fromarray(each) for each in (pixels * 255).round().astype(np.uint8)]


def compute_dtype(name: str, value: jnp.dtype | str | None, default: jnp.dtype) -> jnp.dtype:
    """The dtype a program computes in: as given, else `default`."""
    known = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
    if value is None:
        return jnp.dtype(default)
    label = value if isinstance(value, str) else jnp.dtype(value).name
    if label not in known:
        raise InputError(f"{name}={label!r}: expected one of {', '.join(known)}, or None")
    return jnp.dtype(known[label])


@functools.cache
def _analyzer(face_pack: str) -> FaceAnalyzer:
    return FaceAnalyzer(face_pack)


def _rows(value: np.ndarray | None, rank: int) -> list | None:
    """An array's rows as a list, so that it counts in the batch; None where it has but one."""
    shape = np.shape(value) if value is not None else ()
    return list(range(shape[0])) if len(shape) == rank and shape[0] > 1 else None


def _both(prompts: tuple, count: int, name: str) -> tuple[list[str] | None, list[str] | None]:
    """Prompts of both text encoders; each stands for the other where that is not given."""
    first, second = prompts
    if first is None and second is None:
        return None, None
    first = second if first is None else first
    second = first if second is None else second
    both = inputs.batched(first, count, name), inputs.batched(second, count, f"{name}_2")
    for text in (*both[0], *both[1]):
        if not isinstance(text, str):
            raise InputError(f"{name} holds a {type(text).__name__}: expected text")
    return both


def _residuals(network) -> int:
    """How many residuals a ControlNet makes."""
    return 1 + sum(
        name.startswith("controlnet_down_blocks.") and name.endswith(".kernel")
        for name in network.shapes
    )


def _check_finite(finite: np.ndarray, seeds: Sequence[int], what: str) -> None:
    if not finite.all():
        seed = seeds[int(np.argmin(finite))]
        raise InputError(
            f"{what} of seed {seed} are not finite: the dtype overflowed or the weights are "
            "damaged; try dtype float32 (or vae_dtype float32), or check the files with "
            "`python -m convert inspect`"
        )
