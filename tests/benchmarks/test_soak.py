"""The soak of the HTTP service: how growth and answers are judged, and a run of a few seconds."""

import dataclasses
import io
import random
import subprocess
import sys

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.soaking import good, photos, rules
from benchmarks.soaking.growth import Allowance, grown
from benchmarks.soaking.rules import References, Violation, judge
from benchmarks.soaking.server import LIMITS, ROOT, Sample
from instantid_jax.errors import InputError
from instantid_jax.serving.http.uploads import read_upload

ALLOWED = Allowance(memory=1000, threads=1, files=2)


def samples(memory, threads=10, files=10) -> list[Sample]:
    return [Sample(i, int(each), threads, files) for i, each in enumerate(memory)]


def test_what_rises_throughout_has_grown():
    rising = samples(np.linspace(0, 10_000, 200))
    assert grown(rising, ALLOWED).excessive == ("memory",)
    assert grown(rising, dataclasses.replace(ALLOWED, memory=10_000)).excessive == ()
    more = [dataclasses.replace(each, threads=each.memory // 1000) for each in rising]
    assert grown(more, ALLOWED).excessive == ("memory", "threads")


def test_the_warm_up_noise_and_peaks_have_not():
    rng = np.random.default_rng(0)
    memory = np.r_[np.linspace(0, 50_000, 20), 50_000 + rng.normal(0, 2000, 180)]
    memory[[60, 199]] = 10**6
    found = grown(samples(memory), ALLOWED)
    assert found.excessive == () and 49_000 < found.before["memory"] < 51_000


def test_a_few_samples_are_compared_too():
    assert grown(samples([0, 5000]), ALLOWED).excessive == ("memory",)
    assert grown(samples([5000]), ALLOWED).excessive == ()


def answer(status, body=None, **headers) -> httpx.Response:
    return httpx.Response(status, json=body or {}, headers=headers)


ERROR = {"error": {"message": "seed=x: wrong", "type": "a", "param": "seed", "code": None}}


def test_answers_by_the_rules_are_named():
    full = {"error": ERROR["error"] | {"code": "queue_full"}}
    assert judge(answer(200), {200}) == "200"
    assert judge(answer(400, ERROR), {400}, param="seed") == "400"
    assert judge(answer(503, full, **{"Retry-After": "5"}), {200}) == "503 queue_full"


@pytest.mark.parametrize(
    "wrong",
    [
        answer(500, ERROR),
        answer(200),
        answer(400),
        answer(503, ERROR),
        answer(400, {"error": ERROR["error"] | {"param": "n"}}),
        answer(400, {"error": ERROR["error"] | {"message": "a" * (rules.LONGEST + 1)}}),
    ],
)
def test_other_answers_are_violations(wrong):
    with pytest.raises(Violation):
        judge(wrong, {400}, param="seed")


def test_images_of_the_same_request_are_compared():
    pixels = np.full((4, 4, 3), 100, np.uint8)
    references = References()
    for other in (pixels, pixels + 1):
        references.compare("a", other)
    references.compare("b", pixels + 100)
    with pytest.raises(Violation, match="differs by 100"):
        references.compare("a", pixels + 100)


def test_streams_without_their_image_are_violations():
    preview = good.base64_text(photos.portrait(random.Random(0), side=64))
    partial = ("image_edit.partial_image", {"b64_json": preview, "partial_image_index": 0})
    completed = ("image_edit.completed", {"b64_json": preview})
    assert good.check_events([partial, completed], 1) == "200"
    for events in ([partial], [partial, partial, completed], [completed, completed], []):
        with pytest.raises(Violation):
            good.check_events(events, 1)


@pytest.mark.parametrize("make", [photos.bomb, photos.truncated, photos.no_image])
def test_bad_photos_are_small_and_refused(make):
    for seed in range(40):
        data = make(random.Random(seed))
        assert len(data) < 10**6
        try:
            pixels = read_upload(data, "image", LIMITS.pixels)
        except InputError:
            continue
        # Only spare bytes make this one a bomb.
        assert make is photos.bomb and pixels.shape == (64, 64, 3)


def test_the_largest_photo_has_as_many_pixels_as_are_allowed():
    data = photos.largest(random.Random(0))
    width, height = Image.open(io.BytesIO(data)).size
    assert 0.99 * LIMITS.pixels < width * height <= LIMITS.pixels < 2 * width * height


@pytest.mark.slow
def test_a_short_soak_is_clean():
    command = (sys.executable, "-m", "benchmarks.soak", "--seconds", "20")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| SIGTERM | 10 | 200: 10 |" in done.stdout
