"""The studio: makes the images that the page's form asks for."""

import dataclasses
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from instantid_jax.embedded import LORAS
from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.pipeline.observer import Canceled
from instantid_jax.pipeline.result import Result
from instantid_jax.request.fast import PRESETS
from instantid_jax.request.request import Request
from instantid_jax.request.settings import SEEDS, Settings
from instantid_jax.serving.engine import Engine
from instantid_jax.serving.job import ClosedError, DeadlineError, Job, QueueFullError
from instantid_jax.serving.page.form import NO_PRESET, Choices, Values, settings_of, style_facts
from instantid_jax.serving.page.loras import LoraNames, LoraSwitch, Shelf
from instantid_jax.serving.page.notices import collected
from instantid_jax.serving.page.painting import CHANGES, has_image, mask_of, read_painted
from instantid_jax.serving.page.people import Analyst, Person
from instantid_jax.serving.page.progress import Progress, remarks_html, status_html

# Seconds between two looks at a job; a browser shows no more.
TICK = 0.2
# Previews of each image.
PREVIEWS = 6
# Images of one request.
MOST_IMAGES = 8

Shown = list[tuple[Image.Image | str, str]]


class StoppedError(Exception):
    """The user stopped a request before it was submitted."""


@dataclasses.dataclass(frozen=True)
class Update:
    """Contents of the page at one moment.

    Attributes:
      status: HTML.
      images: pictures or files, with captions; None leaves those that are shown.
      seed: that was drawn; None leaves the control.
      running: whether there is something to stop.
    """

    status: str
    images: Shown | None = None
    seed: int | None = None
    running: bool = True


class Running:
    """A request of one browser tab, from its click to its end."""

    def __init__(self):
        self._stopped = threading.Event()
        self._job: Job | None = None

    def attach(self, job: Job) -> None:
        self._job = job
        self.check(job)

    def stop(self) -> None:
        """Ends it, wherever it is."""
        self._stopped.set()
        if self._job is not None:
            self._job.cancel()

    def check(self, job: Job | None = None) -> None:
        """Raises StoppedError if it was stopped; cancels `job` then."""
        if self._stopped.is_set():
            if job is not None:
                job.cancel()
            raise StoppedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Studio:
    """Everything behind the page.

    Attributes:
      engine: running.
      analyst: finds faces.
      choices: the form's.
      shelf: LoRAs that are offered.
      switch: merges them.
      usual: settings of a new page.
      folder: where files lie while the page shows them.
      output: a folder that keeps the images, too; None keeps none.
      facts: that images record in addition.
    """

    engine: Engine
    analyst: Analyst
    choices: Choices
    shelf: Shelf
    switch: LoraSwitch
    usual: Settings
    folder: Path
    output: Path | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    _running: dict[str, Running] = dataclasses.field(default_factory=dict[str, Running])

    @property
    def embedded(self) -> bool:
        """Whether the embedded miniature is loaded."""
        sources = self.engine.pipe.sources
        return sources is not None and sources.embedded

    @property
    def presets(self) -> list[str]:
        """The presets of few-step models that may suit the weights."""
        return [name for name in PRESETS if (name in LORAS) == self.embedded]

    def stop(self, session: str) -> None:
        """Ends what a browser tab asked for, if anything."""
        running = self._running.get(session)
        if running is not None:
            running.stop()

    def generate(
        self,
        session: str,
        values: Values,
        person: Person,
        *,
        pose: str | None = None,
        painted: Mapping[str, Any] | None = None,
        strengths: Mapping[str, float] | None = None,
    ) -> Iterator[Update]:
        """Makes images, and reports how it goes.

        Ends the request if it is not asked for updates any more.

        Args:
          session: the browser tab, which has one request at a time.
          values: the form's.
          pose: a photo or face file whose keypoints are used.
          painted: what the image editor holds.
          strengths: by the names of LoRAs.
        """
        self.stop(session)
        running = self._running[session] = Running()
        try:
            yield Update(status_html("Preparing", share=0.0), [])
            with collected() as warned:
                request = self.request_of(values, person, pose=pose, painted=painted)
            loras = self.shelf.chosen(strengths or {})
            yield from self._run(running, request, loras, values, person, warned)
        except (InputError, QueueFullError, DeadlineError, ClosedError) as error:
            yield Update(status_html(str(error), "error"), running=False)
        except (Canceled, StoppedError):
            yield Update(status_html("Stopped", "done"), running=False)
        except Exception as error:
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            yield Update(status_html(f"Failed: {reason}", "error"), running=False)
            raise
        finally:
            running.stop()
            if self._running.get(session) is running:
                del self._running[session]

    def request_of(
        self,
        values: Values,
        person: Person,
        *,
        pose: str | None = None,
        painted: Mapping[str, Any] | None = None,
    ) -> Request:
        """The request that the form describes.

        Raises:
          InputError: for what no model takes.
        """
        face = person.face
        if face is None:
            raise InputError("no face: upload one photo or more of the person to show")
        if values["random_seed"]:
            values = values | {"seed": secrets.randbelow(SEEDS - MOST_IMAGES)}
        begins, drawn = has_image(painted), {}
        photo = face.image_size
        if begins:
            assert painted is not None
            image, mask = read_painted(painted)
            photo, drawn["image"] = image.shape[:2], image
            found = None
            if values["change"] == CHANGES[-1]:
                found = self.analyst.source(painted["background"]).face
            drawn["mask_image"] = mask_of(values["change"], mask, found)
        elif values["change"] != CHANGES[0]:
            raise InputError(
                f'"{values["change"]}" needs an image to begin with: upload one, or choose to '
                f'change "{CHANGES[0]}"'
            )
        if pose is not None:
            drawn["pose"] = self.analyst.source(pose).face
        settings = settings_of(values, self.choices, photo, image=begins)
        if settings["num_images_per_prompt"] > MOST_IMAGES:
            raise InputError(
                f"{settings['num_images_per_prompt']} images: expected {MOST_IMAGES} at most"
            )
        return Request(**settings, face=face, **drawn)

    def _run(
        self,
        running: Running,
        request: Request,
        loras: LoraNames,
        values: Values,
        person: Person,
        warned: list[str],
    ) -> Iterator[Update]:
        turn = self.switch.join(loras)
        try:
            while not self.switch.enter(turn):
                line = "Waiting for requests with other LoRAs"
                yield Update(status_html(line, share=0.0))
                time.sleep(TICK)
                running.check()
            sources = self.engine.pipe.sources
            if values["fast"] != NO_PRESET and sources is not None:
                sources.check_preset(values["fast"])
            progress = Progress()
            begun = time.monotonic()
            with collected() as more:
                job = self.engine.submit(request, previews=PREVIEWS, listener=progress)
            warned = [*warned, *more]
            job.add_done_callback(lambda _: progress.changed.set())
            running.attach(job)
            yield from self._follow(job, progress, warned)
            seconds = time.monotonic() - begun
            yield self._finished(job.result(), request, values, person, warned, seconds)
        finally:
            self.switch.leave(turn)

    def _follow(self, job: Job, progress: Progress, warned: list[str]) -> Iterator[Update]:
        while not job.done:
            others = self.engine.status.running
            line = progress.describe(job, self.engine.position(job), others)
            share = progress.done / max(1, job.total)
            status = status_html(line, share=share) + remarks_html(warned)
            yield Update(status, list(progress.previews()) or None, seed=job.request.seed)
            progress.changed.wait(1.0)
            progress.changed.clear()
            if not job.done:
                time.sleep(TICK)

    def _finished(
        self,
        result: Result,
        request: Request,
        values: Values,
        person: Person,
        warned: list[str],
        seconds: float,
    ) -> Update:
        files = self.save(result, {"face_files": person.names, **style_facts(values)})
        assert request.face is not None
        shown: Shown = []
        for file, image, seed in zip(files, result.pil_images, result.seeds, strict=True):
            cosine = self.analyst.likeness(request.face, image)
            likeness = "no face found" if cosine is None else f"likeness {cosine:.2f}"
            shown.append((str(file), f"seed {seed} · {likeness}"))
        line = f"Done in {seconds:.1f} s"
        status = status_html(line, "done") + remarks_html(warned)
        return Update(status, shown, seed=request.seed, running=False)

    def save(self, result: Result, facts: Mapping[str, Any]) -> list[Path]:
        """Writes images as PNG files that record how they were made; returns those of the page."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        files = []
        for i, seed in enumerate(result.seeds):
            (file,) = result.only(i).save(folder / f"instantid-{seed}.png", {**self.facts, **facts})
            files.append(file)
            if self.output is not None:
                stamp = time.strftime("%Y%m%d-%H%M%S")
                self.output.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, self.output / f"{stamp}-{seed}.png")
        return files

    def save_face(self, face: Face) -> Path:
        """Writes a face file that the page takes instead of photos."""
        file = Path(tempfile.mkdtemp(dir=self.folder)) / "face.npz"
        face.save(file)
        return file
