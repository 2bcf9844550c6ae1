"""Answers: images as files, and the facts that are sent with them."""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from instantid_jax.image_files import encode_image
from instantid_jax.pipeline.result import Result
from instantid_jax.serving.http.fields import Fields
from instantid_jax.serving.http.generation import Submitted
from instantid_jax.serving.http.service import Service

# Facts of an image's record that are of the server alone.
OWN_FACTS = ("weights",)


def encode(result: Result, fields: Fields) -> list[bytes]:
    """The files of a result's images; they record how they were made, but not of whom."""
    files = []
    for image, provenance in zip(result.pil_images, result.provenance, strict=True):
        facts = {k: v for k, v in provenance.facts.items() if k not in OWN_FACTS}
        public = dataclasses.replace(provenance.anonymous(), facts=facts)
        files.append(_encoded(image, fields, public.to_text({})))
    return files


def encode_preview(pixels: np.ndarray, size: tuple[int, int], fields: Fields) -> bytes:
    """The file of a preview, enlarged to (height, width) as clients expect it."""
    image = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return _encoded(image, fields, {})


def _encoded(image: Image.Image, fields: Fields, text: dict[str, str]) -> bytes:
    name = fields.output_format.upper()
    return encode_image(image, name, text=text, quality=fields.output_compression)


def facts_of(submitted: Submitted, result: Result) -> dict[str, Any]:
    """An answer's facts about its images, in addition to them."""
    job, request = submitted.job, submitted.job.request
    started, finished = job.started or job.submitted, job.finished or job.submitted
    scheduler = result.provenance[0].facts.get("scheduler") if result.provenance else None
    return {
        "seeds": [int(seed) for seed in result.seeds],
        "steps": request.num_inference_steps,
        "scheduler": scheduler,
        "queue_seconds": round(started - job.submitted, 3),
        "seconds": round(finished - job.submitted, 3),
        "ignored": submitted.fields.ignored,
    }


def count(service: Service, submitted: Submitted, images: int) -> None:
    """Counts a request that was served."""
    job = submitted.job
    started, finished = job.started or job.submitted, job.finished or job.submitted
    service.metrics.images.inc(images)
    service.metrics.waiting.observe(started - job.submitted)
    service.metrics.seconds.observe(finished - job.submitted)
