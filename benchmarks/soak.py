"""`python -m benchmarks.soak`: good and bad clients of `instantid serve`, for an hour.

Starts the service with the embedded model and small limits, and checks that every request is
answered or refused by the rules, that neither memory nor threads grow, and that SIGTERM loses none
of ten requests in flight. Prints a table of the clients; violations make the exit status 1.
"""

import contextlib
import dataclasses
import random
import secrets
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
import tyro

from benchmarks import recording
from benchmarks.recording import command, environment
from benchmarks.soaking import bodies, ending, good, wire
from benchmarks.soaking.crowds import crowd
from benchmarks.soaking.growth import grown
from benchmarks.soaking.rules import Violation
from benchmarks.soaking.server import Sample, flags, serving
from benchmarks.soaking.site import Site
from benchmarks.soaking.tally import Tally
from instantid_jax.cli.entry import entry

RESULTS = recording.RESULTS / "soak.json"
PERCENTILES = (50, 95, 99)
# The heartbeat's, those of crowds and others, and that of the client that interrupts.
TOKENS = 6
# Seconds from which on growth is judged; less is warm-up.
JUDGED = 600
# Samples that are recorded.
RECORDED = 61

Client = Callable[[Site, random.Random], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Soak:
    """How long and how much.

    Attributes:
      seconds: how long the mix of clients runs, without start and end.
      clients: with good requests or bad bodies, at a time.
      slow_clients: that are too slow, leave or do not speak HTTP, at a time.
      crowd_seconds: between crowds of 200 connections.
      heartbeat_seconds: between good requests that come throughout.
      sample_seconds: between samples of memory, threads and files.
      seed: decides the choices.
      record: writes the results to benchmarks/results/soak.json.
    """

    seconds: float = 3600.0
    clients: int = 3
    slow_clients: int = 6
    crowd_seconds: float = 90.0
    heartbeat_seconds: float = 3.0
    sample_seconds: float = 5.0
    seed: int = 0
    record: bool = False


class Mix:
    """The threads of all clients, and what they find.

    Attributes:
      beats: seconds of the heartbeat's requests that were answered with an image.
    """

    def __init__(self, site: Site, soak: Soak):
        self.site, self._soak = site, soak
        self.tally = Tally()
        self.samples: list[Sample] = []
        self.beats: list[float] = []

    def run(self) -> None:
        """Runs the clients until the time is over or the service has ended."""
        soak, stopping = self._soak, self.site.stopping
        workers: list[Callable[[random.Random], None]] = [
            self._beat,
            self._crowds,
            *[self._clients((*good.KINDS, *bodies.KINDS))] * soak.clients,
            *[self._clients(wire.KINDS)] * soak.slow_clients,
        ]
        # An interrupt must not wait for them.
        threads = [
            threading.Thread(target=worker, args=(random.Random(f"{soak.seed} {i}"),), daemon=True)
            for i, worker in enumerate(workers)
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + soak.seconds
        while time.monotonic() < end and self.site.server.process.poll() is None:
            self._sample()
            time.sleep(min(soak.sample_seconds, max(0.0, end - time.monotonic())))
        stopping.set()
        for thread in threads:
            thread.join()
        if self.site.server.process.poll() is not None:
            self.tally.violate("service", f"it ended: {self.site.server.process.returncode}")

    def _sample(self) -> None:
        try:
            self.samples.append(self.site.server.sample())
            self.site.server.metrics()
        except (httpx.HTTPError, OSError) as error:
            self.tally.violate("metrics", error)

    def _clients(self, kinds: Sequence[Client]) -> Callable[[random.Random], None]:
        """One client of a random kind after the other."""

        def work(rng: random.Random) -> None:
            while not self.site.stopping.is_set():
                kind = rng.choice(kinds)
                self._one(kind.__name__, lambda kind=kind: [kind(self.site, rng)])

        return work

    def _one(self, name: str, ask: Callable[[], Any]) -> None:
        try:
            self.tally.add(name, ask())
        except Exception as error:
            self.tally.violate(name, error)

    def _beat(self, rng: random.Random) -> None:
        def beat() -> list[str]:
            start = time.monotonic()
            called = good.edit(self.site, rng, token=0)
            if called == "200":
                self.beats.append(time.monotonic() - start)
            return [called]

        while not self.site.stopping.is_set():
            self._one("heartbeat", beat)
            self.site.stopping.wait(self._soak.heartbeat_seconds)

    def _crowds(self, rng: random.Random) -> None:
        # Also in a short soak.
        while not self.site.stopping.wait(min(self._soak.crowd_seconds, self._soak.seconds / 4)):
            self._one("crowd", lambda: crowd(self.site, rng).elements())


def measure(soak: Soak) -> dict[str, Any]:
    """Runs a soak; `passed` says whether everything held."""
    tokens = [secrets.token_urlsafe(24) for _ in range(TOKENS)]
    with serving(tokens) as server:
        site = Site(server)
        mix = Mix(site, soak)
        mix.run()
        after: Sample | None = None
        with _noting(mix.tally, "rest"):
            ending.rest(server)
            after = server.sample()
        with _noting(mix.tally, "SIGTERM"):
            mix.tally.add("SIGTERM", ending.drain(site))
        for line in server.complaints():
            mix.tally.violate("log", line)
    growth = grown(mix.samples)
    every = max(1, len(mix.samples) // RECORDED)
    return {
        "passed": not mix.tally.violated and not (growth.excessive and soak.seconds >= JUDGED),
        **mix.tally.to_json(),
        "heartbeat_seconds": _percentiles(mix.beats),
        "growth": dataclasses.asdict(growth),
        "samples": [list(dataclasses.astuple(each)) for each in mix.samples[::every]],
        "at_rest": None if after is None else dataclasses.asdict(after),
        "table": mix.tally.table(),
    }


@contextlib.contextmanager
def _noting(tally: Tally, name: str) -> Any:
    """Notes violations and errors inside."""
    try:
        yield
    except (Violation, httpx.HTTPError, OSError) as error:
        tally.violate(name, error)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in PERCENTILES if values}


def main(soak: Soak) -> None:
    """Prints the table and the growth, and records the results if asked to."""
    result = {
        "command": command("benchmarks.soak"),
        "environment": environment("jax", "jaxlib", "flax", "uvicorn", "starlette", "pillow"),
        "service": shlex.join(["instantid", "serve", *flags("PORT", "TOKENS")]),
        **measure(soak),
    }
    print(result.pop("table"))
    shown = ("heartbeat_seconds", "growth", "at_rest", "violated")
    print({name: result[name] for name in shown})
    if soak.record:
        recording.write(RESULTS, [result])
    if not result["passed"]:
        sys.exit(1)


if __name__ == "__main__":
    with entry("python -m benchmarks.soak"):
        main(tyro.cli(Soak))
