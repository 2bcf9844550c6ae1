"""Guidance: the numbers of each step, and the layers that it perturbs."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from instantid_jax.diffusion.guidance import Guidance
from instantid_jax.diffusion.sampler import SamplerBatch
from instantid_jax.diffusion.tables.predictions import of_denoised, of_velocity
from instantid_jax.errors import InputError
from instantid_jax.models.pag import matching
from instantid_jax.params import Network
from instantid_jax.request.request import Request

# FreeU that changes nothing.
NEUTRAL = (1.0, 1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class GuidanceInputs:
    """The guidance of B images.

    Attributes:
      negative: whether there is classifier-free guidance.
      perturbed: paths of the self-attentions that perturbed-attention guidance replaces; empty
        without it.
      numbers: each [T, B] float32.
      freeu: [4, B] float32, as in `Settings`; None if no image has it.
    """

    negative: bool
    perturbed: tuple[str, ...]
    numbers: Guidance[np.ndarray]
    freeu: np.ndarray | None

    def row(self, i: int) -> Guidance[np.ndarray]:
        """The numbers of step `i`."""
        return Guidance(*(number[i] for number in self.numbers))


def resolve_guidance(
    unet: Network,
    requests: Sequence[Request],
    samplers: SamplerBatch,
    default_scale: float,
    prediction_type: str,
) -> GuidanceInputs:
    """Computes the numbers.

    Args:
      requests: of equally many images each.
      default_scale: of requests that give none.
      prediction_type: what the UNet predicts.
    Raises:
      InputError: if no layer fits `pag_applied_layers`, or those of the requests differ.
    """
    scales = [default_scale if r.guidance_scale is None else r.guidance_scale for r in requests]
    repeats = requests[0].num_images_per_prompt
    rows = [_row(request, scale) for request, scale in zip(requests, scales, strict=True)]
    columns = np.repeat(np.array(rows, np.float32).T, repeats, axis=1)  # [numbers, B]
    scale, eta, threshold, mimic, pag, adaptive, rescale, rescale_v, low, high = columns
    signal, noise = (level[:-1].astype(np.float64) for level in samplers.levels)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = (low < noise / signal) & (noise / signal <= high)
        length = np.hypot(signal, noise)
        denoised_offset, factor, velocity_offset = _spaces(
            signal / length, noise / length, prediction_type
        )
        threshold = threshold / factor
    pag = np.maximum(pag - adaptive * (1000 - samplers.timesteps), 0)
    per_step = Guidance(
        # In a guided batch, a scale of 1 gives the positive prediction alone.
        scale=np.where(inside, scale, 1),
        apg_eta=eta,
        apg_threshold=np.nan_to_num(threshold, nan=np.inf, posinf=np.inf),
        mimic_scale=np.where(inside, mimic, 1),
        pag_scale=pag,
        rescale=rescale,
        rescale_v=rescale_v,
        denoised_offset=denoised_offset,
        velocity_offset=velocity_offset,
    )
    numbers = (np.broadcast_to(each, signal.shape).astype(np.float32) for each in per_step)
    freeu = None
    if any(request.freeu is not None for request in requests):
        given = [request.freeu or NEUTRAL for request in requests]
        freeu = np.repeat(np.array(given, np.float32).T, repeats, axis=1)
    return GuidanceInputs(max(scales) > 1, _perturbed(unet, requests), Guidance(*numbers), freeu)


def _row(request: Request, scale: float) -> tuple[float, ...]:
    # As in diffusers, nothing is rescaled without classifier-free guidance.
    guided, scale = scale > 1, max(scale, 1)
    low, high = request.guidance_interval or (0.0, math.inf)
    return (
        scale,
        request.apg_eta,
        math.inf if request.apg_threshold is None else request.apg_threshold,
        scale if request.mimic_scale is None else max(min(request.mimic_scale, scale), 1),
        request.pag_scale,
        request.pag_adaptive_scale,
        request.guidance_rescale * guided,
        request.guidance_rescale_v * guided,
        low,
        high,
    )


def _spaces(
    alpha: np.ndarray, deviation: np.ndarray, prediction_type: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets as in `Guidance`, and in between what an output's norm is multiplied by in x_0.

    Zeros, one and zeros for an image that is done, which has no noise.
    """
    denoised, velocity = (
        of(alpha, deviation, prediction_type) for of in (of_denoised, of_velocity)
    )
    done = deviation == 0
    offsets = (np.where(done, 0, of_x / of_f) for of_x, of_f in (denoised, velocity))
    denoised_offset, velocity_offset = offsets
    return denoised_offset, np.where(done, 1, np.abs(denoised[1])), velocity_offset


def _perturbed(unet: Network, requests: Sequence[Request]) -> tuple[str, ...]:
    patterns = {r.pag_applied_layers for r in requests if r.pag_scale > 0}
    layers = {matching(unet, each) for each in patterns}
    if len(layers) > 1:
        shown = " and ".join(str(list(each)) for each in sorted(patterns))
        raise InputError(
            f"requests of a batch have pag_applied_layers {shown}: run them separately"
        )
    return next(iter(layers), ())
