"""A logger that fails or hangs ends neither the training nor the other loggers."""

import threading

import pytest

from instantid_jax.runs.folder import RunFolder
from train import metrics
from train.loggers import background
from train.loggers.background import Background
from train.metrics import MetricsWriter


class Recording:
    """A logger that records its calls, and fails at a step."""

    def __init__(self, fails_at=None):
        self.calls = []
        self.fails_at = fails_at

    def write(self, record):
        if record["step"] == self.fails_at:
            raise ConnectionError("no network")
        self.calls.append(record["step"])

    def image(self, step, tag, png):
        self.calls.append((step, tag, png))

    def end(self, outcome):
        self.calls.append(outcome)


def test_calls_keep_their_order(tmp_path):
    made = Recording()
    logger = Background("service", lambda: made)
    for step in range(1, 50):
        logger.write({"step": step})
    logger.image(49, "validation", tmp_path)
    logger.end("finished")
    assert made.calls == [*range(1, 50), (49, "validation", tmp_path), "finished"]


def test_a_failure_is_one_warning_and_the_last_call(caplog):
    made = Recording(fails_at=2)
    logger = Background("service", lambda: made)
    for step in (1, 2, 3, 4):
        logger.write({"step": step})
    logger.end("finished")
    assert made.calls == [1]
    (message,) = caplog.messages
    assert message.startswith("service failed") and "ConnectionError: no network" in message


def test_a_logger_that_cannot_be_made_is_one_warning(caplog):
    def make():
        raise ValueError("no key")

    logger = Background("service", make)
    logger.write({"step": 1})
    logger.end("failed")
    (message,) = caplog.messages
    assert "ValueError: no key" in message


def test_a_logger_that_hangs_is_left(caplog, monkeypatch):
    monkeypatch.setattr(background, "SECONDS", {"preempted": 0.05})
    hangs = threading.Event()
    made = Recording()
    made.write = lambda record: hangs.wait()
    logger = Background("service", lambda: made)
    logger.write({"step": 1})
    logger.end("preempted")
    assert "did not take everything" in caplog.text
    hangs.set()


@pytest.mark.parametrize("outcome", ["finished", "preempted", "failed"])
def test_loggers_learn_how_the_run_ended(tmp_path, monkeypatch, outcome):
    made = Recording()
    monkeypatch.setattr(metrics, "logger_of", lambda name: lambda logged: made)
    writer = MetricsWriter(RunFolder(tmp_path), 0, ["wandb"])
    if outcome == "failed":
        with pytest.raises(OSError), writer:
            raise OSError
    else:
        with writer:
            writer.outcome = outcome
    assert made.calls == [outcome]


def test_metrics_file_is_whole_although_another_logger_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "logger_of", lambda name: lambda logged: Recording(fails_at=1))
    run = RunFolder(tmp_path)
    with MetricsWriter(run, 0, ["mlflow"]) as writer:
        for step in (1, 2, 3):
            writer.write({"step": step})
    assert run.metrics.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
