"""The hand-over to SDXL's refiner: which steps are whose, and the refiner's inputs."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from instantid_jax.diffusion.sampler import Sampler, SamplerBatch
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.errors import InputError
from instantid_jax.pipeline.conditions.canvas import resolve_refiner_time_ids
from instantid_jax.pipeline.conditions.guidance import GuidanceInputs, resolve_guidance
from instantid_jax.pipeline.conditions.start import KeptInputs, resolve_kept, strength_of
from instantid_jax.pipeline.model import LoadedModel
from instantid_jax.pipeline.step import StepProgram
from instantid_jax.request.request import Request

logger = logging.getLogger(__name__)

# The share of the denoising that is the base networks', as in diffusers' examples.
DENOISING_END = 0.8


@dataclasses.dataclass(frozen=True, eq=False)
class RefinerInputs:
    """The refiner's part of B images.

    Attributes:
      program: jit's static argument of its step.
      samplers: its steps of each image.
      guidance: as the base networks'; FreeU is theirs alone.
      time_ids: [requests, 5] float32, with guidance [2 requests, 5].
      before: [B], how many steps the base networks take.
      kept: what the masks keep at each step.
    """

    program: StepProgram
    samplers: SamplerBatch
    guidance: GuidanceInputs
    time_ids: np.ndarray
    before: np.ndarray
    kept: KeptInputs


def resolve_samplers(model: LoadedModel, requests: Sequence[Request]) -> list[Sampler]:
    """The base networks' sampler of each request.

    Raises:
      InputError: for a sampler that does not exist, or where these networks take no step.
    """
    samplers = [
        make_sampler(
            *(model.schedule, r.scheduler, r.num_inference_steps, r.eta, r.timesteps, r.sigmas),
            strength_of(r),
            r.denoising_start,
            _end(model, r),
        )
        for r in requests
    ]
    for request, sampler in zip(requests, samplers, strict=True):
        if not len(sampler):
            names = ("num_inference_steps", "strength", "denoising_start")
            given = {name: getattr(request, name) for name in names}
            said = ", ".join(f"{name}={v:g}" for name, v in given.items() if v is not None)
            end = _end(model, request)
            raise InputError(
                f"denoising_end={'1' if end is None else f'{end:g}'} with {said} leaves no step to "
                "the base networks: begin earlier, end later (denoising_end=1 goes without a "
                "refiner), or take more steps"
            )
    return samplers


def resolve_refiner(
    model: LoadedModel,
    requests: Sequence[Request],
    samplers: Sequence[Sampler],
    size: tuple[int, int],
    *,
    guidance: bool,
    masks: bool,
) -> RefinerInputs | None:
    """The steps that the base networks leave; None without a refiner, or if they leave none.

    Args:
      requests: of equally many images each.
      samplers: from `resolve_samplers`.
      size: (height, width) of the images.
      guidance: whether there is classifier-free guidance.
      masks: whether masks keep something.
    Raises:
      InputError: if perturbed-attention guidance names no layer of the refiner.
    """
    if model.refiner is None:
        return None
    # The published refiner predicts noise, whatever the base model does.
    schedule = dataclasses.replace(model.schedule, prediction_type="epsilon")
    rests: list[Sampler] = []
    for r in requests:
        end = _end(model, r)
        rest = make_sampler(
            *(schedule, r.scheduler, r.num_inference_steps, r.eta, r.timesteps, r.sigmas),
            denoising_start=1.0 if end is None else end,
        )
        if not len(rest) and end != 1:
            logger.warning(
                "the refiner takes no step after denoising_end=%g of num_inference_steps=%d: end "
                "earlier, or take more steps",
                end,
                r.num_inference_steps,
            )
        rests.append(rest)
    if not any(len(rest) for rest in rests):
        return None
    repeats = requests[0].num_images_per_prompt
    batch = SamplerBatch.of([rest for rest in rests for _ in range(repeats)])
    before = np.repeat([len(each) for each in samplers], repeats)
    lengths = np.repeat([len(each) + each.left_out for each in samplers], repeats)
    guided = resolve_guidance(
        model.refiner, requests, batch, model.guidance_scale, schedule.prediction_type
    )
    return RefinerInputs(
        program=StepProgram(
            *(model.refiner, (), batch.rule, guidance), keeps=masks, perturbed=guided.perturbed
        ),
        samplers=batch,
        guidance=guided,
        time_ids=resolve_refiner_time_ids(requests, size, guidance),
        before=before,
        kept=resolve_kept(batch, before, lengths),
    )


def _end(model: LoadedModel, request: Request) -> float | None:
    """The share of the denoising that the base networks take; None is all."""
    if request.denoising_end is None and model.refiner is not None:
        return DENOISING_END
    return request.denoising_end
