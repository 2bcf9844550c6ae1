"""Services of a cluster, whose answers name the replica, and their client."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from ray import serve

from instantid_jax.request import Settings
from instantid_jax.serving.http.kept import Faces
from instantid_jax.serving.http.limits import Limits
from instantid_jax.serving.http.service import Service
from instantid_jax.serving.ray.application import NAME, application
from instantid_jax.serving.ray.scaling import Scaling
from tests.serving.http.conftest import make_service, png
from tests.serving.http.fake_engine import FakeEngine

TOKEN = "a-token-of-16-characters"
EDITS, FACES = "/v1/images/edits", "/v1/faces"
FILES = {"image": ("me.png", png())}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def own_steps() -> int:
    """A number of steps that says which process it is."""
    return os.getpid() % 140 + 1


def make(faces: Faces, seconds: float = 0.0, fatal: Path | None = None) -> Service:
    """A service whose default number of steps is its process's own.

    Args:
      seconds: each step takes so long.
      fatal: a file with which the engine of this process dies.
    """

    class Engine(FakeEngine):
        def check(self) -> None:
            if fatal is not None and fatal.exists() and fatal.read_text() == str(own_steps()):
                self.dead = True
            super().check()

    settings = Settings(num_inference_steps=own_steps())
    return make_service(Engine(seconds=seconds), ready=False, faces=faces, settings=settings)


@contextlib.contextmanager
def serving(port: int, folder: Path, make: Callable = make, **scaling) -> Iterator[httpx.Client]:
    """Deploys a service, and a client of it."""
    tokens = folder / "tokens"
    tokens.write_text(TOKEN)
    scaling = Scaling(gpus=0, **scaling)
    serve.run(application(make, tokens, Limits(), scaling), name=NAME)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60
        ) as client:
            until(lambda: replicas() >= scaling.min_replicas)
            yield client
    finally:
        serve.delete(NAME)


def replicas() -> int:
    """How many replicas run."""
    deployments = serve.status().applications[NAME].deployments
    return deployments[NAME].replica_states.get("RUNNING", 0) if deployments else 0


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)
