"""The engine: jobs from submission to their images, and what ends them before."""

import itertools
import logging
import threading
import time

import numpy as np
import pytest
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.pipeline.observer import Canceled
from instantid_jax.request import Request
from instantid_jax.serving.engine import AHEAD, Engine
from instantid_jax.serving.job import ClosedError, DeadlineError, Listener, QueueFullError
from tests.pipeline.small_model import SIZE
from tests.pipeline.test_batches import error
from tests.pipeline.test_compilation import compiled
from tests.serving.asking import ask

WAIT = 120
# So long that no test waits for their end.
LONG = {"num_inference_steps": 1000}


class Notes(Listener):
    """Writes down what it hears."""

    def __init__(self):
        self.started, self.steps, self.previews = threading.Event(), [], []
        self.stepped = threading.Event()

    def on_start(self):
        self.started.set()

    def on_progress(self, done, total):
        self.steps.append((done, total))
        self.stepped.set()

    def wait_for_step(self, step):
        """The last steps may be reported after the images."""
        until = time.monotonic() + WAIT
        while len(self.steps) < step:
            assert time.monotonic() < until
            time.sleep(0.01)

    def on_preview(self, image, pixels):
        self.previews.append((image, pixels))


@pytest.fixture(scope="module")
def engine(pipe):
    engine = Engine(pipe, rows=(2, 4), waiting=3)
    engine.warm_up([SIZE])
    with engine:
        yield engine


@pytest.fixture
def busy(engine):
    """Jobs that take all rows of the engine, until the test ends."""
    notes = [Notes(), Notes()]
    jobs = [engine.submit(ask(9, **LONG), listener=each) for each in notes]
    for each in notes:
        assert each.started.wait(WAIT)
    yield jobs
    for job in jobs:
        job.cancel()


def settle(engine):
    """Waits until nothing is in the engine."""
    until = time.monotonic() + WAIT
    while (status := engine.status).waiting or status.running:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_jobs_have_the_images_of_the_pipeline(engine, pipe):
    """Samplers, steps and guidance are mixed; one is of two images and is not guided."""
    requests = [
        ask(0, scheduler="unipc", num_inference_steps=5),
        ask(1, num_images_per_prompt=2, guidance_scale=1.0),
        ask(2, scheduler="euler_ancestral", num_inference_steps=2),
        ask(3, num_inference_steps=7, ip_adapter_scale=0.1),
    ]
    notes = [Notes() for _ in requests]
    jobs = [
        engine.submit(request, listener=each, previews=1)
        for request, each in zip(requests[:3], notes, strict=False)
    ]
    jobs[0].result(WAIT)
    jobs.append(engine.submit(requests[3], listener=notes[3], previews=1))
    # Together: the program of one rule serves all.
    expected = pipe.run(requests)
    images = iter(zip(expected.latents, expected.pil_images, strict=True))
    for request, job, heard in zip(requests, jobs, notes, strict=True):
        result = job.result(WAIT)
        assert result.seeds == list(request.seeds)
        for i, (latents, image) in enumerate(itertools.islice(images, len(result.seeds))):
            assert error(result.latents[i], latents) < 1e-4
            assert np.abs(np.int16(result.pil_images[i]) - np.int16(image)).max() <= 2
        steps = len(result.seeds) * request.num_inference_steps
        heard.wait_for_step(steps)
        assert heard.steps == [(i + 1, steps) for i in range(steps)]
        assert [image for image, _ in heard.previews] == list(range(len(result.seeds)))
        assert heard.previews[0][1].shape == (SIZE[0] // 8, SIZE[1] // 8, 3)
        assert job.submitted <= job.started <= job.finished
    assert next(images, None) is None


def test_an_image_says_how_to_make_it_again(engine, pipe, tmp_path):
    request = ask(4, num_images_per_prompt=2, num_inference_steps=2)
    engine.submit(request).result(WAIT).save(tmp_path / "out.png")
    again = Request.from_image(tmp_path / "out-2.png")
    assert (again.seed, again.num_images_per_prompt) == (5, 1)
    made = np.int16(pipe.run([again]).pil_images[0])
    assert np.abs(made - np.int16(Image.open(tmp_path / "out-2.png"))).max() <= 2


def test_requests_are_checked_when_they_are_submitted(engine):
    with pytest.raises(InputError, match="no prompt"):
        engine.submit(Request(None, face=ask().face))
    with pytest.raises(InputError, match="control_images has 1 entries"):
        engine.submit(ask(control_images=[np.zeros((8, 8, 3), np.uint8)]))


def test_nothing_compiles_while_it_serves(engine):
    engine.submit(ask(0)).result(WAIT)
    compiled.clear()
    image = np.zeros((*SIZE, 3), np.uint8)
    mask = np.full(SIZE, 255, np.uint8)
    requests = [
        ask(1, scheduler="pndm", negative_prompt="rain"),
        ask(2, guidance_scale=1.0, num_images_per_prompt=3, ip_adapter_end=0.5),
        ask(3, image=image, kps_image=image, strength=0.5),
        ask(4, image=image, kps_image=image, mask_image=mask, guidance_scale=1.0),
        ask(5, prompt="a (man:1.4)", control_mask=mask, guess_mode=True),
    ]
    for job in [engine.submit(request) for request in requests[:3]]:
        job.result(WAIT)
    for job in [engine.submit(request, previews=1) for request in requests[3:]]:
        job.result(WAIT)
    assert compiled == []


@pytest.mark.slow
def test_what_was_not_announced_compiles_and_is_served(engine, pipe):
    request = ask(0, height=64, width=64)
    compiled.clear()
    result = engine.submit(request, previews=1).result(WAIT)
    # In the thread that encodes: none is left for the one that steps.
    assert [compiled.count(f"jit({name})") for name in ("advance", "insert", "take")] == [1, 1, 1]
    assert error(result.latents, pipe.run([request]).latents) < 1e-4


def test_a_running_job_is_canceled(engine, busy):
    waits = engine.submit(ask(1))
    busy[0].cancel()
    assert waits.result(WAIT).seeds == [1]
    with pytest.raises(Canceled):
        busy[0].result(0)
    assert not busy[1].done


def test_priorities_start_first_and_positions_are_known(engine, busy):
    # As many are encoded already.
    ahead = [engine.submit(ask(1, **LONG)) for _ in range(AHEAD)]
    until = time.monotonic() + WAIT
    while engine.status.waiting and time.monotonic() < until:
        time.sleep(0.01)
    low, high = engine.submit(ask(2)), engine.submit(ask(3), priority=1)
    assert (engine.position(high), engine.position(low)) == (0, 1)
    for job in (*busy, *ahead):
        job.cancel()
    low.result(WAIT)
    assert high.started <= low.started
    settle(engine)


def test_a_full_queue_refuses(engine, busy):
    with pytest.raises(QueueFullError) as refused:
        for _ in range(10):
            busy.append(engine.submit(ask(1, **LONG)))
    assert refused.value.retry_after > 0


def test_late_jobs_end_running_and_waiting(engine, busy):
    waits = engine.submit(ask(1), timeout=0.05)
    with pytest.raises(DeadlineError, match="not finished within its time"):
        waits.result(WAIT)
    busy[0].cancel()
    notes = Notes()
    runs = engine.submit(ask(1, **LONG), timeout=2.0, listener=notes)
    with pytest.raises(DeadlineError):
        runs.result(WAIT)
    assert notes.steps


def test_latents_that_are_not_finite_end_their_job_alone(engine):
    latents = np.full((1, SIZE[0] // 8, SIZE[1] // 8, 4), 3e38, np.float32)
    notes = Notes()
    other = engine.submit(ask(1, **LONG), listener=notes)
    assert notes.stepped.wait(WAIT)
    bad = engine.submit(ask(2, latents=latents))
    with pytest.raises(InputError, match="after step 1 of seed 2 are not finite"):
        bad.result(WAIT)
    before = len(notes.steps)
    notes.stepped.clear()
    assert notes.stepped.wait(WAIT) and len(notes.steps) > before and not other.done
    other.cancel()


def test_a_listener_that_fails_does_no_harm(engine, caplog):
    class Broken(Listener):
        def on_progress(self, done, total):
            raise RuntimeError("broken")

    with caplog.at_level(logging.CRITICAL):
        assert engine.submit(ask(6), listener=Broken()).result(WAIT).seeds == [6]


def test_pictures_wait_where_a_step_would_take_too_long(pipe):
    with Engine(pipe, rows=(2, 4), step_seconds=1e-9) as engine:
        notes = Notes()
        first = engine.submit(ask(1, **LONG), listener=notes)
        assert notes.stepped.wait(WAIT)
        second = engine.submit(ask(2))
        notes.stepped.clear()
        assert notes.stepped.wait(WAIT) and second.started is None
        first.cancel()
        second.result(WAIT)


def test_closing_drains_or_fails_what_is_left(pipe):
    engine = Engine(pipe, rows=(2, 4))
    with engine:
        jobs = [engine.submit(ask(i)) for i in range(3)]
        engine.close(drain=WAIT)
        assert [job.result(0).seeds for job in jobs] == [[0], [1], [2]]
        with pytest.raises(ClosedError, match="takes no more requests"):
            engine.submit(ask())
    other = Engine(pipe, rows=(2, 4))
    with other:
        left = [other.submit(ask(i, **LONG)) for i in range(2)]
    for job in left:
        with pytest.raises(ClosedError, match="the engine was closed"):
            job.result(0)
    assert not [thread for thread in other._threads if thread.is_alive()]


def test_a_thread_that_fails_ends_every_job(pipe, monkeypatch, caplog):
    engine = Engine(pipe, rows=(2, 4))
    monkeypatch.setattr(engine, "_admit", lambda: 1 / 0)
    with caplog.at_level(logging.CRITICAL), engine:
        engine.check()
        job = engine.submit(ask())
        with pytest.raises(ZeroDivisionError):
            job.result(WAIT)
        for thread in engine._threads:
            thread.join(WAIT)
        with pytest.raises(RuntimeError, match="thread of the engine has died"):
            engine.check()
        with pytest.raises(ClosedError):
            engine.submit(ask())


def test_sizes_without_room_for_guidance_are_refused(pipe):
    for rows in ((), (1,), (0, 2)):
        with pytest.raises(InputError, match="expected numbers above 0, the largest at least 2"):
            Engine(pipe, rows=rows)
