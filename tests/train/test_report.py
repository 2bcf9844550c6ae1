"""The report of a run: the right curves, and one line for bad input."""

import json

import numpy as np
import pytest
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.runs.folder import RunFolder
from train import report
from train.metrics import MetricsWriter
from train.runs.json_lines import append_event

STEPS = 60


@pytest.fixture
def run(tmp_path):
    """A run with a validation, a number that is not finite, and a partial last line."""
    run = RunFolder(tmp_path / "a")
    run.path.mkdir()
    with MetricsWriter(run, 0) as writer:
        for step in range(1, STEPS + 1):
            loss = float("nan") if step == 7 else 1 / step
            writer.write({"step": step, "loss": loss, "grad_norm": 2.0, "bucket": [64, 64]})
            if step % 20 == 0:
                numbers = {"loss": 0.5, "loss_t_to_250": 0.25, "face_cosine": step / 100}
                writer.validation(step, numbers, run.samples / "none.png")
    append_event(run, "started", step=0)
    append_event(run, "resumed", step=30)
    with run.metrics.open("a") as file:
        file.write('{"step": 61, "lo')
    return run


def test_curves_are_those_of_the_files(run):
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()[:-1]]
    curves = report.read_curves(lines)
    assert curves.keys() == {
        "loss",
        "grad_norm",
        *(f"validation/{name}" for name in ("loss", "loss_t_to_250", "face_cosine")),
    }
    np.testing.assert_array_equal(curves["loss"][:, 0], np.arange(1, STEPS + 1))
    assert np.isnan(curves["loss"][6, 1]) and np.isfinite(np.delete(curves["loss"], 6, 0)).all()
    np.testing.assert_array_equal(
        curves["validation/face_cosine"], [[20, 0.2], [40, 0.4], [60, 0.6]]
    )


def test_smoothing_keeps_a_constant_and_skips_nan():
    values = np.full(500, 3.0)
    values[[0, 100]] = np.nan
    found = report.smoothed(values)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], 3.0)
    noise = np.random.default_rng(0).standard_normal(5000)
    assert report.smoothed(noise)[1000:].std() < 0.2


def test_one_png_shows_everything(run, tmp_path, monkeypatch, capsys):
    drawn = {}
    draw, mark = report._draw, report._mark

    def drawing(axis, name, curve):
        drawn[name] = axis
        draw(axis, name, curve)

    def marking(axis, events):
        mark(axis, events)
        marks = [line for line in axis.lines if line.get_color() == report.EVENTS["resumed"][0]]
        assert [list(line.get_xdata()) for line in marks] == [[30, 30]]

    monkeypatch.setattr(report, "_draw", drawing)
    monkeypatch.setattr(report, "_mark", marking)
    report.main([str(run.path)])
    assert capsys.readouterr().out.strip() == str(run.path / "report.png")
    assert drawn["validation/loss"] is drawn["validation/loss_t_to_250"]
    assert len(set(drawn.values())) == 4
    with Image.open(run.path / "report.png") as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 5
    report.main([str(run.path), "--output", str(tmp_path / "other.png")])
    assert (tmp_path / "other.png").stat().st_size == (run.path / "report.png").stat().st_size


@pytest.mark.parametrize(
    ("args", "message"),
    [(("nowhere",), "has no metrics.jsonl"), (("a", "--output", "b.txt"), "of a .png file")],
)
def test_bad_input_ends_with_one_line_and_status_2(
    run, tmp_path, monkeypatch, capfd, args, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        report.main(args)
    assert ended.value.code == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_without_steps_is_refused(tmp_path):
    with pytest.raises(InputError, match="pass the folder of a training run"):
        report.report(RunFolder(tmp_path), tmp_path / "report.png")
