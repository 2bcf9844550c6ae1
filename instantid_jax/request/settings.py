"""Settings: the words and numbers of a request, with their defaults and their checks."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

from instantid_jax.diffusion.names import check_sampler
from instantid_jax.errors import InputError
from instantid_jax.request.aliases import refuse_unknown
from instantid_jax.request.block_scales import Blocks, number_or_blocks, plain
from instantid_jax.request.checks import (
    Check,
    check_flag,
    check_number,
    check_pair,
    check_side,
    check_text,
    check_texts,
    check_whole,
    each,
    one_or_each,
    optional,
)

SEEDS = 2**32
IP_ADAPTER_SCALE = 0.8
# One number for all ControlNets, or one for each.
PerControlNet = float | tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How an image is made; names and meanings follow diffusers.

    Attributes:
      negative_prompt: what to keep out of the image.
      prompt_2: prompt of the second text encoder; None uses the first's.
      negative_prompt_2: negative prompt of the second text encoder; None uses the first's.
      prompt_weighting: read weights in prompts, (words:1.3), [words] and BREAK, as AUTOMATIC1111's
        web UI does; False takes them literally.
      height: in pixels, a multiple of 8; None takes the photo's aspect ratio at the size the model
        was trained for (a long side of 1024 for SDXL).
      width: in pixels, a multiple of 8; given together with height.
      num_inference_steps: denoising steps.
      guidance_scale: scale of classifier-free guidance; 1 or less turns it off and halves the
        cost. None takes the model's own: 5 for SDXL, 2 for the embedded model.
      guidance_rescale: share of the guided output's rescaling to the deviation of the positive one,
        as in diffusers; most of it happens in the last steps.
      guidance_rescale_v: the same for the velocity, against glaring colors: 0.7 is usual.
      guidance_interval: (low, high), guidance only while noise / signal is above low and at most
        high; (0.28, 5.42) is usual.
      apg_eta: adaptive projected guidance: share of guidance that is kept of what points along the
        denoised image and saturates it; 0 is usual, 1 keeps all.
      apg_threshold: adaptive projected guidance: largest norm of the difference between the
        denoised images; 15 is usual for 1024 x 1024 pixels. None allows all.
      mimic_scale: dynamic thresholding: the guidance scale whose range of values the denoised image
        is kept in.
      pag_scale: scale of perturbed-attention guidance, which adds half to the cost; 3 is usual, 0
        turns it off.
      pag_adaptive_scale: by how much pag_scale falls with each of 1000 timesteps, down to 0.
      pag_applied_layers: regular expressions of the self-attentions that are perturbed.
      freeu: (s1, s2, b1, b2), FreeU's factors of the skips and of the backbone in the first and
        second up block; (0.9, 0.2, 1.3, 1.4) for SDXL.
      ip_adapter_scale: strength of the Image Adapter, for likeness; or of each block of the UNet as
        in diffusers, {"down": 0.5, "up": {"block_0": [0, 1, 0]}}, 0 where none is named.
      ip_adapter_start: share of the steps after which the Image Adapter begins.
      ip_adapter_end: share of the steps after which the Image Adapter ends.
      negative_id_noise: how much noise, drawn from the seed, the negative prompt's face embedding
        has instead of zeros; 0 to 1, against burned images. Not used without guidance.
      controlnet_conditioning_scale: strength of IdentityNet, for likeness and the positions of
        eyes, nose and mouth; or of each ControlNet, IdentityNet first.
      control_guidance_start: share of the steps after which IdentityNet begins; or each ControlNet.
      control_guidance_end: share of the steps after which IdentityNet ends; or each ControlNet.
      guess_mode: let the ControlNets lead, with or without a prompt.
      clip_skip: layers of the text encoders to leave out in addition to the last.
      original_size: SDXL's micro-conditioning, (height, width); None is the image's size.
      crops_coords_top_left: SDXL's micro-conditioning, (top, left).
      target_size: SDXL's micro-conditioning, (height, width); None is the image's size.
      negative_original_size: the same for the negative prompt, where both sizes are given.
      negative_crops_coords_top_left: the same for the negative prompt.
      negative_target_size: the same for the negative prompt.
      scheduler: the sampler; None takes the checkpoint's own. One of euler, euler_ancestral, heun,
        ddim, ddpm, pndm, dpmpp_2m, dpmpp_2m_sde, dpmpp_sde, dpmpp_3m, deis, unipc, lcm, tcd; all
        but the last two also with _trailing or _linspace at the end, some with _karras.
      eta: share of DDPM's noise, for ddim; share of noise, for tcd.
      timesteps: the timestep of each step, falling, instead of num_inference_steps; for euler,
        heun, ddpm, dpmpp_2m, dpmpp_3m, lcm and tcd.
      sigmas: the noise of each step and of the end, falling, instead of num_inference_steps; for
        euler.
      strength: how much of an image to change, where the request begins with one: 0 to 1, the
        share of the steps to take. None is 0.8, and 0.9999 with a mask.
      mask_blur: over how many pixels inside the mask's edge the result fades in; None is 4 of 1024.
      padding_mask_crop: sample the mask's surroundings alone, up to this many pixels around it, at
        the full size.
      denoising_start: share of the denoising after which to begin, with an image or latents that
        are as noisy as that, instead of strength.
      denoising_end: share of the denoising after which the base networks end, and the refiner
        begins if one is loaded; None is 0.8 with a refiner, and 1, the end, without one.
      aesthetic_score: score of images, from 0 to 10, that the refiner aims for.
      negative_aesthetic_score: the same for the negative prompt.
      seed: 0 to 2**32 - 1; image i of several has seed + i.
      num_images_per_prompt: how many images to make.
    Raises:
      InputError: for a value that no model takes.
    """

    negative_prompt: str | None = None
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    prompt_weighting: bool = True
    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 30
    guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    guidance_rescale_v: float = 0.0
    guidance_interval: tuple[float, float] | None = None
    apg_eta: float = 1.0
    apg_threshold: float | None = None
    mimic_scale: float | None = None
    pag_scale: float = 0.0
    pag_adaptive_scale: float = 0.0
    pag_applied_layers: tuple[str, ...] = ("mid",)
    freeu: tuple[float, float, float, float] | None = None
    ip_adapter_scale: float | Blocks = IP_ADAPTER_SCALE
    ip_adapter_start: float = 0.0
    ip_adapter_end: float = 1.0
    negative_id_noise: float = 0.0
    controlnet_conditioning_scale: PerControlNet = 0.8
    control_guidance_start: PerControlNet = 0.0
    control_guidance_end: PerControlNet = 1.0
    guess_mode: bool = False
    clip_skip: int | None = None
    original_size: tuple[int, int] | None = None
    crops_coords_top_left: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    negative_original_size: tuple[int, int] | None = None
    negative_crops_coords_top_left: tuple[int, int] = (0, 0)
    negative_target_size: tuple[int, int] | None = None
    scheduler: str | None = None
    eta: float = 0.0
    timesteps: tuple[int, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    strength: float | None = None
    mask_blur: float | None = None
    padding_mask_crop: int | None = None
    denoising_start: float | None = None
    denoising_end: float | None = None
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5
    seed: int = 0
    num_images_per_prompt: int = 1

    def __post_init__(self):
        for name, check in CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if (self.height is None) != (self.width is None):
            raise InputError(f"height={self.height}, width={self.width}: give both or neither")
        if self.timesteps is not None and self.sigmas is not None:
            raise InputError("timesteps and sigmas say the same: give one of them")
        if self.timesteps is not None:
            object.__setattr__(self, "num_inference_steps", len(self.timesteps))
        if self.sigmas is not None:
            object.__setattr__(self, "num_inference_steps", max(1, len(self.sigmas) - 1))
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if low >= high:
                raise InputError(f"guidance_interval={low:g}, {high:g}: expected low, high")
        self._check_denoising()
        check_whole("seed", self.seed, 0, SEEDS - self.num_images_per_prompt)
        if self.ip_adapter_start >= self.ip_adapter_end:
            raise InputError(
                f"ip_adapter_start={self.ip_adapter_start:g} must be below "
                f"ip_adapter_end={self.ip_adapter_end:g}"
            )
        self.windows(self.controlnets or 1)

    def _check_denoising(self) -> None:
        start, end = self.denoising_start, self.denoising_end
        if start is not None and self.strength is not None:
            raise InputError("strength and denoising_start both say where to begin: give one")
        if start is not None and end is not None and start >= end:
            raise InputError(f"denoising_start={start:g} must be below denoising_end={end:g}")

    @property
    def controlnets(self) -> int | None:
        """How many ControlNets the strengths and windows are for; None if one stands for all."""
        counts = {
            name: len(value)
            for name, value in self._per_controlnet().items()
            if isinstance(value, tuple)
        }
        if len(set(counts.values())) > 1:
            lengths = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InputError(f"one value for each ControlNet is expected, got lists of {lengths}")
        return next(iter(counts.values()), None)

    def windows(self, controlnets: int) -> list[tuple[float, float, float]]:
        """(strength, start, end) of each ControlNet, IdentityNet first.

        Raises:
          InputError: if the values are for another number of ControlNets, or a window is empty.
        """
        columns: list[tuple[float, ...]] = []
        for name, value in self._per_controlnet().items():
            values = value if isinstance(value, tuple) else (value,) * controlnets
            if len(values) != controlnets:
                raise InputError(
                    f"{name} has {len(values)} entries for {controlnets} ControlNets: give one "
                    "number, or one for each, IdentityNet's first"
                )
            columns.append(values)
        strengths, starts, ends = columns
        for start, end in zip(starts, ends, strict=True):
            if start >= end:
                raise InputError(
                    f"control_guidance_start={start:g} must be below control_guidance_end={end:g}"
                )
        return list(zip(strengths, starts, ends, strict=True))

    def _per_controlnet(self) -> dict[str, PerControlNet]:
        return {name: getattr(self, name) for name in PER_CONTROLNET}

    def values(self, **changes: Any) -> dict[str, Any]:
        """All settings by name, with other values for some: arguments of a `Request`."""
        return {name: getattr(self, name) for name in CHECKS} | changes

    def to_json(self) -> dict[str, Any]:
        """All settings, in types that JSON knows; tuples become lists."""
        return {name: plain(value) for name, value in self.values().items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; missing settings take their defaults.

        Raises:
          InputError: for an unknown name, or a value that no model takes.
        """
        refuse_unknown([name for name in values if name not in CHECKS], list(CHECKS))
        return cls(**values)


PER_CONTROLNET = (
    "controlnet_conditioning_scale",
    "control_guidance_start",
    "control_guidance_end",
)


_strength = partial(check_number, low=0)
_share = partial(check_number, low=0, high=1)
# Every setting's check; nothing checks a setting a second time but what a model limits.
CHECKS: dict[str, Check] = {
    "negative_prompt": optional(check_text),
    "prompt_2": optional(check_text),
    "negative_prompt_2": optional(check_text),
    "prompt_weighting": check_flag,
    "height": optional(check_side),
    "width": optional(check_side),
    "num_inference_steps": partial(check_whole, low=1, high=10**6),
    "guidance_scale": optional(_strength),
    "guidance_rescale": _share,
    "guidance_rescale_v": _share,
    "guidance_interval": optional(each(_strength, 2)),
    "apg_eta": _share,
    "apg_threshold": optional(_strength),
    "mimic_scale": optional(_strength),
    "pag_scale": _strength,
    "pag_adaptive_scale": _strength,
    "pag_applied_layers": check_texts,
    "freeu": optional(each(_strength, 4)),
    "ip_adapter_scale": number_or_blocks(_strength),
    "ip_adapter_start": _share,
    "ip_adapter_end": _share,
    "negative_id_noise": _share,
    "controlnet_conditioning_scale": one_or_each(_strength),
    "control_guidance_start": one_or_each(_share),
    "control_guidance_end": one_or_each(_share),
    "guess_mode": check_flag,
    "clip_skip": optional(partial(check_whole, low=0, high=1024)),
    "original_size": optional(check_pair),
    "crops_coords_top_left": check_pair,
    "target_size": optional(check_pair),
    "negative_original_size": optional(check_pair),
    "negative_crops_coords_top_left": check_pair,
    "negative_target_size": optional(check_pair),
    "scheduler": optional(check_sampler),
    "eta": _share,
    "timesteps": optional(each(partial(check_whole, low=0, high=10**6))),
    "sigmas": optional(each(_strength)),
    "strength": optional(_share),
    "mask_blur": optional(partial(check_number, low=0, high=1024)),
    "padding_mask_crop": optional(partial(check_whole, low=0, high=65536)),
    "denoising_start": optional(_share),
    "denoising_end": optional(_share),
    "aesthetic_score": _strength,
    "negative_aesthetic_score": _strength,
    "seed": partial(check_whole, low=0, high=SEEDS - 1),
    "num_images_per_prompt": partial(check_whole, low=1, high=1024),
}
