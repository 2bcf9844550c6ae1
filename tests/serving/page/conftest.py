"""The page's parts, on the embedded face pack and an engine that draws portraits at once."""

import dataclasses
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from instantid_jax import embedded
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.pipeline.result import Result
from instantid_jax.pipeline.sources import Sources
from instantid_jax.request.provenance import Provenance
from instantid_jax.request.settings import Settings
from instantid_jax.request.styles import STYLES
from instantid_jax.serving.job import Job
from instantid_jax.serving.page.form import Choices, values_of
from instantid_jax.serving.page.loras import LoraSwitch, Shelf
from instantid_jax.serving.page.people import Analyst
from instantid_jax.serving.page.studio import Studio
from instantid_jax.serving.status import Status
from miniature.portraits import draw_random

PHOTOS = [str(path) for path in embedded.PORTRAITS]


class FakeEngine:
    """Makes portraits in a thread; with `hold`, after it is set.

    Attributes:
      requests: that were submitted; `jobs`: theirs.
      error: what submitting raises.
    """

    def __init__(self):
        self.pipe = SimpleNamespace(sources=Sources())
        self.status = Status()
        self.requests, self.jobs = [], []
        self.error = None
        self.hold = None

    def submit(self, request, *, previews, listener):
        if self.error is not None:
            raise self.error
        job = Job(request, previews=previews, listener=listener)
        job.total = request.num_inference_steps * request.num_images_per_prompt
        self.requests.append(request)
        self.jobs.append(job)
        threading.Thread(target=self._run, args=(job,)).start()
        return job

    def position(self, job):
        return 0

    def _run(self, job):
        request = job.request
        job.start()
        job.progress()
        for i in range(request.num_images_per_prompt):
            job.show(i, np.full((4, 6, 3), 40 * i, np.uint8))
        if self.hold is not None:
            self.hold.wait(60)
        facts = {"version": "0", "scheduler": "euler", "weights": vars(self.pipe.sources)}
        resolved = dataclasses.replace(request, height=64, width=64, guidance_scale=2.0)
        images = [draw_random(1).image for _ in request.seeds]
        made = [Provenance(resolved, i, facts=facts) for i in range(len(images))]
        job.succeed(Result(images, np.zeros((len(images), 1)), list(request.seeds), made))


@pytest.fixture(scope="session")
def analyst() -> Analyst:
    return Analyst(FaceAnalyzer(embedded.FACE_PACK), drawn_only=True)


@pytest.fixture(scope="session")
def person(analyst):
    return analyst.person(PHOTOS[:1])[0]


@pytest.fixture(scope="session")
def choices() -> Choices:
    return Choices(STYLES, ((128, 128), (160, 96)), 2.0)


@pytest.fixture
def values(choices):
    """A form that is filled in."""
    return values_of(Settings(seed=7), "a person in the rain", choices)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def merged() -> list[tuple[str, ...]]:
    """The LoRAs that were merged, one after the other."""
    return []


@pytest.fixture
def studio(engine, analyst, choices, merged, tmp_path) -> Studio:
    folder = tmp_path / "files"
    folder.mkdir()
    return Studio(
        engine=engine,
        analyst=analyst,
        choices=choices,
        shelf=Shelf((), ("miniature-4",)),
        switch=LoraSwitch(merged.append, lambda: True),
        usual=Settings(),
        folder=folder,
    )
