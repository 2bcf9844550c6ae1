"""The command in this process, on the small model and a drawn face pack."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pytest
from PIL import Image

from instantid_jax import Face, InstantIDPipeline, cli
from instantid_jax.cli import faces
from instantid_jax.pipeline import Result
from instantid_jax.pipeline.sources import Sources
from instantid_jax.request import Request
from instantid_jax.request.provenance import Provenance
from tests.face import synthetic_pack
from tests.pipeline import small_model


@dataclasses.dataclass
class Ran:
    """How a run ended: its status, lines of both outputs, and what was logged."""

    status: int
    out: list[str]
    err: list[str]
    log: list[str]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """The user's cache folder."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """The small model's folder."""
    return small_model.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def weights(model) -> tuple[str, ...]:
    """Flags that name it."""
    return ("--sdxl", model, "--instantid", model)


@pytest.fixture
def run(cache, tmp_path, monkeypatch, capfd, caplog) -> Callable[..., Ran]:
    """Runs `instantid` in an empty folder; the arguments may be paths and numbers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    # Where insightface would look for packs: nowhere.
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "instantid_jax")

    def call(*arguments) -> Ran:
        caplog.clear()
        capfd.readouterr()
        status = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        out, err = capfd.readouterr()
        log = [record.getMessage() for record in caplog.records]
        return Ran(status, out.splitlines(), err.splitlines(), log)

    return call


@pytest.fixture(scope="session")
def pack(tmp_path_factory) -> Path:
    """A folder with a face pack that finds red squares."""
    return synthetic_pack.write_pack(tmp_path_factory.mktemp("packs") / "synthetic")


class Recorder:
    """Instead of a pipeline: what it was loaded with, what it was asked for, and drawn images."""

    FACTS: ClassVar = {"version": "0", "scheduler": "euler"}

    def __init__(self, draw):
        self.weights: dict = {}
        self.requests: list[Request] = []
        self.draw = draw

    def load(self, **weights) -> Self:
        self.weights = weights
        return self

    def resolved(self, request: Request) -> Request:
        defaults = {"height": 64, "width": 64, "guidance_scale": 5.0}
        missing = {name: default for name, default in defaults.items() if not vars(request)[name]}
        return dataclasses.replace(request, **missing)

    def run(self, requests, *, observer) -> Result:
        self.requests = requests
        names = [field.name for field in dataclasses.fields(Sources)]
        facts = self.FACTS | {"weights": {name: self.weights[name] for name in names}}
        provenance = [
            Provenance(self.resolved(request), image, i, len(requests), (), facts)
            for i, request in enumerate(requests)
            for image in range(request.num_images_per_prompt)
        ]
        images = [self.draw(i) for i in range(len(provenance))]
        seeds = [seed for request in requests for seed in request.seeds]
        return Result(images, np.zeros((len(images), 1)), seeds, provenance)


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    """Instead of every pipeline that is loaded."""
    fake = Recorder(lambda i: Image.new("RGB", (8, 8), (i, 0, 0)))
    monkeypatch.setattr(InstantIDPipeline, "load", fake.load)
    return fake


@pytest.fixture(autouse=True)
def _no_pack_is_kept():
    yield
    faces._analyzer.cache_clear()


@pytest.fixture
def photo(tmp_path) -> Callable[..., Path]:
    """Writes a photo of faces, each (top, left, side, identity)."""

    def write(name: str, *drawn: tuple[int, int, int, int], size=(128, 256)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(synthetic_pack.photo(*size, *drawn)).save(path)
        return path

    return write


@pytest.fixture
def face_file(tmp_path) -> Path:
    path = tmp_path / "me.npz"
    small_model.person(0, image_size=(64, 128)).save(path)
    return path


@pytest.fixture
def person() -> Face:
    """The face in `face_file`."""
    return small_model.person(0, image_size=(64, 128))
