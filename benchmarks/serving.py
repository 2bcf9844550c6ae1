"""`python -m benchmarks.serving`: requests that arrive at random, served in three ways.

In one process, with the same model and the same requests: by the engine, which requests join and
leave between steps; in static batches, of those that wait when the batch before has ended; and one
at a time. First all arrive at once, which shows the most that each serves; then at random times
(Poisson), at a share of what the engine serves.
"""

import collections
import dataclasses
import itertools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tyro

from benchmarks import recording
from benchmarks.random_pipeline import random_pipeline
from benchmarks.recording import command, environment
from benchmarks.sizes import FULL
from instantid_jax import Face, InstantIDPipeline
from instantid_jax.cli.entry import entry
from instantid_jax.pipeline.observer import Canceled, Observer
from instantid_jax.pipeline.result import join
from instantid_jax.request import Request
from instantid_jax.serving.engine import Engine
from instantid_jax.serving.job import Job, Listener

RESULTS = recording.RESULTS / "serving.json"
PERCENTILES = (50, 95, 99)
# Eyes, nose and mouth corners, as fractions of the image's side.
KEYPOINTS = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.62], [0.58, 0.62]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """The requests of a benchmark.

    Attributes:
      requests: how many.
      share: arrivals per second, as a share of what the engine serves when all arrive at once.
      steps: denoising steps; each number is as frequent, and four or fewer have no guidance.
      sizes: sides of the images in pixels, each as frequent.
      rows: sizes of the engine's batches; static ones have as many images as the largest has pairs.
      canceled: share of the requests whose client leaves, after a random part of its usual time.
      full: SDXL with random weights in bfloat16, instead of the embedded miniature.
      seed: of times and choices.
      record: writes the results to benchmarks/results/serving.json.
    """

    requests: int = 120
    share: float = 0.8
    steps: tuple[int, ...] = (4, 8, 30)
    sizes: tuple[int, ...] = (128,)
    rows: tuple[int, ...] = (1, 2, 4, 8)
    canceled: float = 0.05
    full: bool = False
    seed: int = 0
    record: bool = False


class Steps(Listener, Observer):
    """Writes down when steps of a job finished."""

    def __init__(self):
        self.times: list[float] = []

    def on_progress(self, done: int, total: int) -> None:
        self.times.append(time.monotonic())


class Server(Protocol):
    def submit(self, request: Request, listener: Steps) -> Job: ...


class Batches:
    """Static batching: a batch takes what waits, and the next one begins when it has ended."""

    def __init__(self, pipe: InstantIDPipeline, images: Sequence[int]):
        """`images`: sizes of batches, which copies of the last request fill."""
        self._pipe, self._images = pipe, sorted(images)
        self._waiting: collections.deque[tuple[Job, Steps]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Batches":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def submit(self, request: Request, listener: Steps) -> Job:
        job = Job(request, listener=listener)
        with self._changed:
            self._waiting.append((job, listener))
            self._changed.notify()
        return job

    def _next(self) -> list[tuple[Job, Steps]]:
        """Those that wait longest, of one size."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            waiting = [each for each in self._waiting if not each[0].done]
            fitting = [e for e in waiting if e[0].request.height == waiting[0][0].request.height]
            chosen = fitting[: self._images[-1]]
            self._waiting = collections.deque(each for each in waiting if each not in chosen)
            return chosen

    def _run(self) -> None:
        while (batch := self._next()) or not self._closed:
            if not batch:
                continue
            size = next(size for size in self._images if size >= len(batch))
            requests = [job.request for job, _ in batch]
            for job, _ in batch:
                job.start()
            result = self._pipe.run(
                [*requests, *[requests[-1]] * (size - len(batch))], observer=batch[0][1]
            )
            for i, (job, _) in enumerate(batch):
                job.succeed(join([result.only(i)]))


def requests(load: Load) -> list[Request]:
    """The requests, in the order of their arrival."""
    rng = np.random.default_rng(load.seed)
    kinds = itertools.cycle(itertools.product(load.steps, load.sizes))
    asked = [next(kinds) for _ in range(load.requests)]
    rng.shuffle(asked)
    return [
        Request(
            "a portrait",
            face=Face(embedding=rng.standard_normal(512), kps=int(size) * KEYPOINTS),
            height=int(size),
            width=int(size),
            num_inference_steps=int(steps),
            guidance_scale=1.0 if steps <= 4 else 5.0,
            seed=i,
        )
        for i, (steps, size) in enumerate(asked)
    ]


def serve(server: Server, asked: Sequence[Request], load: Load, rate: float) -> dict[str, Any]:
    """Submits requests, waits for all and counts.

    Args:
      rate: requests per second; infinite for all at once.
    """
    rng = np.random.default_rng(load.seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, len(asked))) if np.isfinite(rate) else None
    leaves = rng.random(len(asked)) < (load.canceled if arrivals is not None else 0)
    usual = 0.0 if arrivals is None else load.rows[-1] / 2 / rate
    started = time.monotonic()
    jobs, timers = [], []
    for i, request in enumerate(asked):
        if arrivals is not None:
            time.sleep(max(0.0, started + arrivals[i] - time.monotonic()))
        job = server.submit(request, steps := Steps())
        jobs.append((job, steps))
        if leaves[i]:
            timers.append(threading.Timer(float(rng.uniform(0, usual)), job.cancel))
            timers[-1].start()
    done = [(job, steps) for job, steps in jobs if _made(job)]
    seconds = max(job.finished for job, _ in done) - started
    gaps = np.concatenate([np.diff(steps.times) for _, steps in done])
    return {
        "images": len(done),
        "canceled": len(jobs) - len(done),
        "images_per_second": round(len(done) / seconds, 3),
        "waiting_seconds": _percentiles([job.started - job.submitted for job, _ in done]),
        "seconds": _percentiles([job.finished - job.submitted for job, _ in done]),
        "step_seconds": _percentiles(gaps),
    }


def _made(job: Job) -> bool:
    """Waits for a job; False if its client left."""
    try:
        job.result()
    except Canceled:
        return False
    return True


def _percentiles(values: Any) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in PERCENTILES}


def measure(load: Load) -> dict[str, Any]:
    """All three, first with all requests at once and then at the same random times."""
    pipe = random_pipeline(FULL, "bfloat16", None) if load.full else InstantIDPipeline.load()
    sizes = [(size, size) for size in load.sizes]
    asked = requests(load)
    pairs = load.rows[-1] // 2
    batches = [2**k for k in range(pairs.bit_length()) if 2**k <= pairs]

    def engine() -> Engine:
        made = Engine(pipe, rows=load.rows, waiting=load.requests)
        made.warm_up(sizes)
        return made

    servers: dict[str, Callable[[], Any]] = {
        "engine": lambda: _Submitting(engine()),
        "static batches": lambda: Batches(pipe, batches),
        "one at a time": lambda: Batches(pipe, [1]),
    }
    _warm(pipe, sizes, batches)
    results: dict[str, Any] = {name: {} for name in servers}
    rate = 0.0
    for name, make in servers.items():
        with make() as server:
            results[name]["at once"] = serve(server, asked, load, np.inf)
        rate = rate or load.share * results[name]["at once"]["images_per_second"]
    for name, make in servers.items():
        with make() as server:
            results[name]["at random"] = serve(server, asked, load, rate)
        print(name, results[name], file=sys.stderr)
    return {"requests_per_second": round(rate, 3), "servers": results}


class _Submitting:
    """An engine as a `Server`."""

    def __init__(self, engine: Engine):
        self._engine = engine

    def __enter__(self) -> "_Submitting":
        self._engine.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def submit(self, request: Request, listener: Steps) -> Job:
        return self._engine.submit(request, listener=listener)


def _warm(pipe: InstantIDPipeline, sizes: Sequence[tuple[int, int]], batches: Sequence[int]):
    """Compiles what static batches need."""
    load = Load(requests=2, steps=(4, 8), sizes=tuple(size for size, _ in sizes))
    unguided, guided = sorted(requests(load), key=lambda request: request.guidance_scale)
    for side, _ in sizes:
        for request in (guided, unguided):
            resized = dataclasses.replace(request, height=side, width=side)
            for size in batches:
                pipe.run([resized] * size)


def main(load: Load) -> None:
    """Prints the results as JSON, and records them if asked to."""
    result = {
        "command": command("benchmarks.serving"),
        "environment": environment("jax", "jaxlib", "flax"),
        "load": dataclasses.asdict(load),
        **measure(load),
    }
    print(result)
    if load.record:
        recording.write(RESULTS, [result])


if __name__ == "__main__":
    with entry("python -m benchmarks.serving"):
        main(tyro.cli(Load))
