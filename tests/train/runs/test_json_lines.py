"""The JSON Lines files of a run's folder."""

import json

from instantid_jax.runs.folder import RunFolder
from train.runs.json_lines import append_event, append_line, cut_after, cut_metrics

LINES = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n{"step": 3, "loss": 0.3}\n'


def test_cut_keeps_lines_up_to_the_step_byte_for_byte():
    assert cut_after(LINES, 2) == LINES[: LINES.index(b'{"step": 3')]
    assert cut_after(LINES, 3) == LINES
    assert cut_after(LINES, 0) == b""
    assert cut_after(b"", 5) == b""


def test_cut_drops_partial_lines_of_any_length():
    whole = cut_after(LINES, 2)
    last = LINES[len(whole) :]
    for length in range(len(last) - 1):
        assert cut_after(whole + last[:length], 9) == whole
    # A line without its newline is still complete.
    assert cut_after(LINES[:-1], 9) == LINES
    # Something was appended to a partial line.
    assert cut_after(b'{"step": 1, "lo{"step": 2}\n{"step": 3}\n', 9) == b'{"step": 3}\n'
    assert cut_after(b'12\n{"loss": 1}\n{"step": 3}\n', 9) == b'{"step": 3}\n'


def test_metrics_file_is_truncated_in_place(tmp_path):
    run = RunFolder(tmp_path / "run")
    cut_metrics(run, 2)
    assert not run.metrics.exists()
    run.path.mkdir()
    run.metrics.write_bytes(LINES + b'{"step": 4')
    cut_metrics(run, 2)
    assert run.metrics.read_bytes() == cut_after(LINES, 2)
    assert [path.name for path in run.path.iterdir()] == ["metrics.jsonl"]


def test_appended_lines_are_valid_json(tmp_path):
    run = RunFolder(tmp_path / "run")
    append_event(run, "started")
    append_event(run, "resumed", step=3)
    with run.events.open("ab") as file:
        file.write(b'{"event": "to')
    append_event(run, "stopped", loss=float("nan"))
    lines = run.events.read_text().splitlines()
    assert json.loads(lines[1]) == {"event": "resumed", "step": 3}
    assert json.loads(lines[3]) == {"event": "stopped", "loss": None}
    append_line(run.metrics, {"step": 1})
    assert run.metrics.read_bytes() == b'{"step": 1}\n'


def test_steps_are_those_of_finished_checkpoints(tmp_path):
    run = RunFolder(tmp_path)
    assert run.steps() == []
    for name in ("3", "12", "9.orbax-checkpoint-tmp", "notes"):
        (run.checkpoints / name).mkdir(parents=True)
    assert run.steps() == [3, 12]
