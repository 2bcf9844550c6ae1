"""Loads and static batches, with a pipeline that makes nothing."""

import time

import numpy as np
import pytest
from PIL import Image

from benchmarks.serving import Batches, Load, Steps, requests, serve
from instantid_jax.pipeline.result import Result

LOAD = Load(requests=12, steps=(4, 8), sizes=(64, 128), canceled=0.0)


class Idle:
    """Notes its batches, and takes a while for each."""

    def __init__(self):
        self.batches = []

    def run(self, asked, observer):
        self.batches.append([request.seed for request in asked])
        assert len({request.height for request in asked}) == 1
        for done in range(3):
            time.sleep(0.002)
            observer.on_progress(done + 1, 3)
        seeds = [request.seed for request in asked]
        image = Image.new("RGB", (8, 8))
        latents = np.zeros((len(asked), 1, 1, 4))
        return Result([image] * len(asked), latents, seeds, [None] * len(asked))


def test_requests_have_every_kind_as_often():
    asked = requests(LOAD)
    kinds = [(each.num_inference_steps, each.height) for each in asked]
    assert sorted(kinds) == sorted([(4, 64), (4, 128), (8, 64), (8, 128)] * 3)
    assert [each.seed for each in asked] == list(range(12))
    assert {each.num_inference_steps: each.guidance_scale for each in asked} == {4: 1.0, 8: 5.0}
    assert kinds == [(each.num_inference_steps, each.height) for each in requests(LOAD)]


@pytest.mark.parametrize("rate", [np.inf, 200.0])
def test_static_batches_serve_every_request_once(rate):
    idle = Idle()
    with Batches(idle, [1, 2, 4]) as server:
        counted = serve(server, requests(LOAD), LOAD, rate)
    assert (counted["images"], counted["canceled"]) == (12, 0)
    assert {len(batch) for batch in idle.batches} <= {1, 2, 4}
    assert sorted({seed for batch in idle.batches for seed in batch}) == list(range(12))
    for name in ("waiting_seconds", "seconds", "step_seconds"):
        assert 0 <= counted[name]["p50"] <= counted[name]["p95"] <= counted[name]["p99"]
    assert counted["waiting_seconds"]["p99"] < counted["seconds"]["p99"]


def test_clients_that_leave_are_counted():
    load = Load(requests=12, steps=(4, 8), sizes=(64,), canceled=0.5)
    with Batches(Idle(), [1]) as server:
        counted = serve(server, requests(load), load, 1000.0)
    assert counted["images"] + counted["canceled"] == 12 and counted["canceled"]


def test_steps_note_their_times():
    steps = Steps()
    steps.on_progress(1, 2)
    steps.on_progress(2, 2)
    assert len(steps.times) == 2 and steps.times[0] <= steps.times[1]
