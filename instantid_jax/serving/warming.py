"""Warming up: compiles what pictures need, and measures their steps."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from instantid_jax.pipeline import stages
from instantid_jax.pipeline.model import LoadedModel
from instantid_jax.pipeline.observer import preview
from instantid_jax.pipeline.pipeline import InstantIDPipeline
from instantid_jax.pipeline.plan import Plan
from instantid_jax.request.request import Request
from instantid_jax.serving.group import Group
from instantid_jax.serving.job import Job
from instantid_jax.serving.picture import Picture
from instantid_jax.serving.pool import EVERY_SAMPLER, Arrival

# The first step of a size compiles, the others are measured; the quickest counts.
MEASURED = 3


def arrive(model: LoadedModel, plan: Plan) -> Arrival:
    """Encodes what a plan of one image is made of."""
    conditions = stages.encode(model, plan).conditions
    state, known = stages.begin(model, plan, EVERY_SAMPLER)
    return Arrival(state["sample"], known, conditions)


def measure(
    model: LoadedModel, picture: Picture, sizes: Sequence[int], places: int
) -> dict[int, float]:
    """The seconds that a step of each size takes, of a picture that has not begun.

    Compiles all that it needs until it is decoded, previews included. Sizes that are too small for
    it are left out.

    Args:
      places: how many the pool has; programs depend on it as on the sizes.
    """
    arrival, seconds = picture.arrival, {}
    group = Group(model, picture.kind, {}, places)
    with model.on_devices(model.dtype):
        group.insert(picture)
        for size in (size for size in sizes if size >= picture.count):
            times = []
            for _ in range(1 + MEASURED):
                picture.step = 0
                start = time.perf_counter()
                jax.block_until_ready(group.step(size, [picture]))
                times.append(time.perf_counter() - start)
            seconds[size] = min(times[1:])
        latents = group.latents(picture)
    preview(model, np.asarray(latents))
    stages.decode(model, picture.plan, latents, np.dtype(np.uint8))
    picture.arrival, picture.step = arrival, 0
    return seconds


def pictures_of(pipe: InstantIDPipeline, height: int, width: int) -> Iterator[Picture]:
    """Pictures that need, one after the other, all that usual requests of a size do."""
    length = pipe.model.networks.image_proj.config.embedding_dim
    image = np.zeros((height, width, 3), np.uint8)
    blank = Request(
        "",
        height=height,
        width=width,
        image_embeds=np.zeros(length, np.float32),
        kps_image=image,
        guidance_scale=2.0,
    )
    masked = dataclasses.replace(blank, image=image, mask_image=np.full_like(image[..., 0], 255))
    unguided = (dataclasses.replace(each, guidance_scale=1.0) for each in (blank, masked))
    for request in (blank, masked, *unguided, dataclasses.replace(blank, image=image)):
        plan = pipe.resolve([request])
        yield Picture(Job(request), 0, plan, arrive(pipe.model, plan))
