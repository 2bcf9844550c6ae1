"""Times sampling in this library, on this process's device: a child of `sampling`."""

import contextlib
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks.alternation import take_turns
from benchmarks.cases import Case, Job
from benchmarks.compiled_sampling import step_flops
from benchmarks.kernels import kernels
from benchmarks.random_pipeline import random_pipeline
from benchmarks.sizes import FULL, SMALL
from instantid_jax import Face, InstantIDPipeline
from instantid_jax.pipeline import programs, sampling
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

    def call(seed: int, steps: int = case.steps) -> float:
        start = time.perf_counter()
        pipe(
            [PROMPT] * case.batch,
            face=face,
            negative_prompt=NEGATIVE_PROMPT,
            height=case.size,
            width=case.size,
            num_inference_steps=steps,
            guidance_scale=5.0 if case.guidance else 1.0,
            seed=[seed + i for i in range(case.batch)],
            progress=False,
        )
        return time.perf_counter() - start

    first = {"first_picture_seconds": round(call(0), 3)}
    yield first
    seeds = [case.batch * (i + 1) for i in range(repeats)]
    pictures = [call(seed) for seed in seeds]
    # Timed separately, because waiting for each part leaves the device idle before the next.
    parts = []
    for seed in seeds:
        with _timed() as seconds:
            call(seed)
        parts.append(seconds)
    seconds = {name: statistics.median(each[name] for each in parts) for name in parts[0]}
    seconds["picture"] = statistics.median(pictures)
    size = (case.size, case.size)
    operations = case.steps * step_flops(pipe.model.networks, case.batch, size, case.guidance)
    device = jax.devices()[0]
    peak, memory = PEAK.get(device.device_kind), device.memory_stats() or {}
    rate = operations / seconds["steps"]
    few = min(case.steps, 4)
    result = {
        "seconds": {name: round(value, 5) for name, value in seconds.items()},
        "fastest_picture_seconds": round(min(pictures), 5),
        "step_tflop": round(operations / case.steps / 1e12, 4),
        "tflop_per_second": round(rate / 1e12, 2),
        "share_of_peak": None if peak is None else round(rate / peak, 4),
        "peak_memory_gb": round(memory.get("peak_bytes_in_use", 0) / 1e9, 2) or None,
        "kernels_of_a_step": kernels(lambda: call(0, few), "denoise", few),
    }
    yield dataclasses.asdict(case) | first | result


@contextlib.contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Collects the seconds of `text` (with all other step-independent work), `steps`, `decode`."""
    seconds = dict.fromkeys(("text", "steps", "decode"), 0.0)

    def timed(function: Callable, name: str) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = jax.block_until_ready(function(*args, **options))
            seconds[name] += time.perf_counter() - start
            return result

        return call

    with contextlib.ExitStack() as stack:
        for module, function, name in (
            (programs, "encode_text", "text"),
            (programs, "encode_id", "text"),
            (programs, "prepare", "text"),
            (sampling, "denoise", "steps"),
            (sampling, "decode", "decode"),
        ):
            wrapped = timed(getattr(module, function), name)
            stack.enter_context(mock.patch.object(module, function, wrapped))
        yield seconds


if __name__ == "__main__":
    take_turns(measure(Job.from_json(sys.argv[1])))
