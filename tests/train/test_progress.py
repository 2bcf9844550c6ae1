"""Metrics are written one step late and completely, and end a run that diverges."""

import dataclasses
import json
import logging
import math

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from instantid_jax.runs.folder import RunFolder
from instantid_jax.sharding import training_mesh
from tests.train import small, tiny_config
from train.flops import StepFlops
from train.metrics import MetricsWriter, step_record
from train.progress import DivergedError, Progress

SIZE = (64, 64)


def returned(loss=1.0, grad_norm=2.0):
    """The return value of a step."""
    crc = jnp.asarray([1, 2, 3, 4], jnp.uint32)
    return {
        "loss": jnp.float32(loss),
        "grad_norm": jnp.float32(grad_norm),
        "loss_face_to_1": jnp.float32(jnp.nan),
        "example_crc32": crc,
        "finite": jnp.asarray(math.isfinite(loss) and math.isfinite(grad_norm)),
    }


def lines(run):
    if not run.metrics.exists():
        return []
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def progress_of(run):
    """Returns a factory of progress logs that skip a number of steps."""

    def make(skip=0):
        config = tiny_config.get_config()
        optimizer = dataclasses.replace(config.optimizer, skip_nonfinite=skip)
        config = dataclasses.replace(config, optimizer=optimizer)
        flops = StepFlops(config, small.networks(), training_mesh((8, 1, 1)))
        return Progress(config, MetricsWriter(run, 0), 0, flops)

    return make


def take(progress, step, **values):
    progress.take(step, returned(**values), {"bucket": list(SIZE)}, waited=0.0, size=SIZE)


def test_step_is_written_once_the_next_is_dispatched(run, progress_of):
    with progress_of() as progress:
        take(progress, 1)
        assert lines(run) == []
        take(progress, 2)
        assert [line["step"] for line in lines(run)] == [1]
        progress.flush()
        progress.flush()
    assert [line["step"] for line in lines(run)] == [1, 2]


def test_the_log_has_no_rate_of_the_step_that_compiles(progress_of, monkeypatch, caplog):
    monkeypatch.setattr("train.progress._SECONDS_BETWEEN_LINES", 0)
    caplog.set_level(logging.INFO, "train")
    with progress_of() as progress:
        for step in (1, 2, 3):
            take(progress, step)
    compiling, first, second = caplog.messages
    assert compiling.startswith("compiling the training step")
    assert first.startswith("step 1 of") and first.endswith(": loss 1.0000")
    assert second.startswith("step 2 of") and second.endswith(" images/s")


def test_record_is_complete(run, progress_of):
    with progress_of() as progress:
        take(progress, 1)
        progress.flush()
    (line,) = lines(run)
    assert line["loss"] == 1.0
    assert line["loss_face_to_1"] is None
    assert line["images_per_second"] == pytest.approx(4 / line["seconds_per_step"])
    assert 0 <= line["data_wait_share"] <= 1
    assert line["bucket"] == list(SIZE)
    assert "model_flop_utilization" not in line  # this CPU's peak is unknown


def test_checksum_of_examples_depends_on_each_and_their_order():
    crcs = [np.array(values, np.uint32) for values in ([1, 2], [2, 1], [1, 3])]
    sums = {
        step_record(1, {"example_crc32": crc, "finite": True})["examples_crc32"] for crc in crcs
    }
    assert len(sums) == 3


@pytest.mark.parametrize("bad", [{"loss": math.nan}, {"grad_norm": math.inf}])
def test_nonfinite_steps_end_the_run(run, progress_of, bad):
    with progress_of() as progress:
        take(progress, 1, **bad)
        with pytest.raises(DivergedError, match=r"step 1: .* is (nan|inf)"):
            progress.flush()
    assert lines(run)[0]["step"] == 1


def test_skips_consecutive_nonfinite_steps_up_to_the_limit(run, progress_of):
    with progress_of(skip=2) as progress:
        for step, loss in enumerate([math.nan, math.nan, 1.0, math.nan, math.nan], start=1):
            take(progress, step, loss=loss)
        take(progress, 6, loss=math.nan)
        with pytest.raises(DivergedError, match="step 6"):
            progress.flush()


def test_later_steps_are_cut_on_resume(run):
    with MetricsWriter(run, 0) as writer:
        for step in (1, 2, 3):
            writer.write({"step": step, "loss": 1.0})
    with run.metrics.open("a") as file:
        file.write('{"step": 4, "l')
    with MetricsWriter(run, 2) as writer:
        writer.write({"step": 3, "loss": 2.0})
    assert lines(run) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 1.0},
        {"step": 3, "loss": 2.0},
    ]


def test_tensorboard_reads_the_same_numbers(run, tmp_path):
    png = tmp_path / "a.png"
    png.write_bytes(b"png")
    with MetricsWriter(run, 4) as writer:
        writer.write({"step": 5, "loss": 0.5, "example_ids": ["a"], "loss_face_to_1": math.nan})
        writer.image(5, "validation", png)
    (path,) = run.path.glob("events.out.tfevents.*")
    found = list(EventFileLoader(str(path)).Load())
    assert any(event.session_log.status == 1 and event.step == 5 for event in found)
    values = {v.tag: v for event in found for v in event.summary.value if event.step == 5}
    assert set(values) == {"loss", "validation"}
    assert values["loss"].tensor.float_val[0] == 0.5
