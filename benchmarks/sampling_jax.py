"""Times sampling in this library, on this process's device: a child of `sampling`."""

import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.alternation import take_turns
from benchmarks.cases import Case, Job
from benchmarks.compiled_sampling import step_flops
from benchmarks.kernels import kernels
from benchmarks.random_pipeline import random_pipeline
from benchmarks.sizes import FULL, SMALL
from instantid_jax import Face, InstantIDPipeline
from instantid_jax.pipeline import stages
from instantid_jax.pipeline.observer import Observer
from instantid_jax.pipeline.plan import resolve
from instantid_jax.request import Request
from train.flops import PEAK

PROMPT, NEGATIVE_PROMPT = "film noir, a man in the rain", "blurry"
# Eyes, nose and mouth corners, as fractions of the image's side.
KEYPOINTS = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.62], [0.58, 0.62]])


def measure(job: Job) -> Iterator[Any]:
    """Yields the device; then, for each case, the first image's seconds and a result."""
    start = time.perf_counter()
    pipe = random_pipeline(SMALL if job.small else FULL, job.dtype, job.vae_dtype)
    jax.block_until_ready(pipe.model.params)
    weights_seconds = time.perf_counter() - start
    yield {
        "device": jax.devices()[0].device_kind,
        "weights_seconds": round(weights_seconds, 2),
    }
    for case in job.cases:
        yield from _measure_case(pipe, case, job.repeats)


def _measure_case(pipe: InstantIDPipeline, case: Case, repeats: int) -> Iterator[Any]:
    face = Face(embedding=np.ones(512), kps=case.size * KEYPOINTS)

    def requests(seed: int, steps: int = case.steps) -> list[Request]:
        return [
            Request(
                PROMPT,
                face=face,
                negative_prompt=NEGATIVE_PROMPT,
                height=case.size,
                width=case.size,
                num_inference_steps=steps,
                guidance_scale=5.0 if case.guidance else 1.0,
                seed=seed + i,
            )
            for i in range(case.batch)
        ]

    def call(seed: int, steps: int = case.steps) -> float:
        start = time.perf_counter()
        pipe.run(requests(seed, steps))
        return time.perf_counter() - start

    first = {"first_image_seconds": round(call(0), 3)}
    yield first
    seeds = [case.batch * (i + 1) for i in range(repeats)]
    images = [call(seed) for seed in seeds]
    parts = [_timed_stages(pipe, requests(seed)) for seed in seeds]
    seconds = {name: statistics.median(each[name] for each in parts) for name in parts[0]}
    seconds["image"] = statistics.median(images)
    size = (case.size, case.size)
    operations = case.steps * step_flops(pipe.model.networks, case.batch, size, case.guidance)
    device = jax.devices()[0]
    peak, memory = PEAK.get(device.device_kind), device.memory_stats() or {}
    rate = operations / seconds["steps"]
    few = min(case.steps, 4)
    result = {
        "seconds": {name: round(value, 5) for name, value in seconds.items()},
        "fastest_image_seconds": round(min(images), 5),
        "step_tflop": round(operations / case.steps / 1e12, 4),
        "tflop_per_second": round(rate / 1e12, 2),
        "share_of_peak": None if peak is None else round(rate / peak, 4),
        "peak_memory_gb": round(memory.get("peak_bytes_in_use", 0) / 1e9, 2) or None,
        "kernels_per_step": kernels(lambda: call(0, few), "denoise", few),
    }
    yield dataclasses.asdict(case) | first | result


def _timed_stages(pipe: InstantIDPipeline, requests: list[Request]) -> dict[str, float]:
    """Seconds of each stage, timed separately: waiting for one leaves the device idle."""
    plan = resolve(pipe.model, requests)
    start = time.perf_counter()
    conditions = jax.block_until_ready(stages.encode(pipe.model, plan))
    encoded = time.perf_counter()
    latents = jax.block_until_ready(stages.sample(pipe.model, plan, conditions, Observer()))
    sampled = time.perf_counter()
    stages.decode(pipe.model, plan, latents, np.dtype(np.uint8))
    decoded = time.perf_counter()
    return {"text": encoded - start, "steps": sampled - encoded, "decode": decoded - sampled}


if __name__ == "__main__":
    take_turns(measure(Job.from_json(sys.argv[1])))
