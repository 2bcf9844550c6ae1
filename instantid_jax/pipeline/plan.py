"""Plan: the inputs of a call on the host, checked. `resolve` makes it and computes nothing."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from instantid_jax.diffusion.sampler import SamplerBatch
from instantid_jax.errors import InputError
from instantid_jax.pipeline.conditions.adapter import AdapterInputs, resolve_adapter
from instantid_jax.pipeline.conditions.canvas import resolve_size, resolve_time_ids
from instantid_jax.pipeline.conditions.control import ControlInputs, resolve_control
from instantid_jax.pipeline.conditions.guidance import GuidanceInputs, resolve_guidance
from instantid_jax.pipeline.conditions.person import PersonInputs, resolve_person
from instantid_jax.pipeline.conditions.refiner import (
    RefinerInputs,
    resolve_refiner,
    resolve_samplers,
)
from instantid_jax.pipeline.conditions.start import StartInputs, resolve_start
from instantid_jax.pipeline.conditions.text import TextInputs, resolve_text
from instantid_jax.pipeline.conditions.view import View
from instantid_jax.pipeline.model import LoadedModel
from instantid_jax.pipeline.step import StepProgram
from instantid_jax.request.request import Request


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A batch of requests, checked against a model.

    Attributes:
      requests: of equally many images each.
      program: jit's static argument of the step.
      samplers: the sampler of each image.
      size: (height, width) of the images, in pixels.
      latent_shape: (H, W, C) of an image's latents.
      guidance: the scales of each image, and what they apply to.
      text, person, adapter, control: the conditions of each request.
      time_ids: [requests, 6] float32, with guidance [2 requests, 6].
      views: the part of an image that each request changes; None where it begins with noise alone.
      start: what the images begin with.
      refiner: how SDXL's refiner continues; None if it does not.
    """

    requests: tuple[Request, ...]
    program: StepProgram
    samplers: SamplerBatch
    size: tuple[int, int]
    latent_shape: tuple[int, int, int]
    guidance: GuidanceInputs
    text: TextInputs
    person: PersonInputs
    adapter: AdapterInputs
    control: ControlInputs
    time_ids: np.ndarray
    views: tuple[View | None, ...]
    start: StartInputs
    refiner: RefinerInputs | None

    @property
    def repeats(self) -> int:
        """Images of each request."""
        return self.requests[0].num_images_per_prompt

    @property
    def seeds(self) -> list[int]:
        """The seed of each image."""
        return [seed for request in self.requests for seed in request.seeds]


def resolve(model: LoadedModel, requests: Sequence[Request]) -> Plan:
    """Checks requests against the model and each other.

    Requests of different numbers of images become requests of one image each.

    Raises:
      InputError: for what the model does not take, or what cannot be in one batch.
    """
    if not requests:
        raise InputError("no requests: give at least one")
    for request in requests:
        if not isinstance(request, Request):
            raise InputError(f"a request is a {type(request).__name__}: expected a Request")
    if len({request.num_images_per_prompt for request in requests}) > 1:
        requests = [r.alone(i) for r in requests for i in range(r.num_images_per_prompt)]
    networks, repeats = model.networks, requests[0].num_images_per_prompt
    samplers = resolve_samplers(model, requests)
    batch = SamplerBatch.of([sampler for sampler in samplers for _ in range(repeats)])
    size = resolve_size(requests, model.long_side)
    guided = resolve_guidance(
        *(networks.unet, requests, batch, model.guidance_scale, model.schedule.prediction_type)
    )
    guidance = guided.negative
    model.check_mesh(size, len(requests) * repeats, guidance)
    unet = networks.unet.config
    takes_mask = unet.in_channels != unet.out_channels
    shape = (size[0] // 8, size[1] // 8, unet.out_channels)
    views = tuple(View.of(request, size) for request in requests)
    # Windows of ControlNets count the steps of the refiner too, as in diffusers.
    lengths = [len(each) + each.left_out for each in samplers]
    start = resolve_start(requests, views, batch, lengths, shape, takes_mask)
    return Plan(
        requests=tuple(requests),
        program=StepProgram(
            *(networks.unet, networks.controlnets, batch.rule, guidance),
            keeps=start.masks is not None and not takes_mask,
            perturbed=guided.perturbed,
        ),
        samplers=batch,
        size=size,
        latent_shape=shape,
        guidance=guided,
        text=resolve_text(model, requests, guidance),
        person=resolve_person(model, requests, views, size),
        adapter=resolve_adapter(unet, requests, lengths, guidance),
        control=resolve_control(networks.controlnets, requests, views, lengths, size, guidance),
        time_ids=resolve_time_ids(requests, size, guidance),
        views=views,
        start=start,
        refiner=resolve_refiner(
            *(model, requests, samplers, size), guidance=guidance, masks=start.masks is not None
        ),
    )
