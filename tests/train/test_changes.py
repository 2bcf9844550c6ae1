"""Settings that change on resume: which may, and that nothing else changes."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.runs.folder import RunFolder
from instantid_jax.sharding import training_mesh
from tests.train import tiny_config, training_process
from train import loop
from train.batch import place_batch, process_rows
from train.changes import Change, changes_made, changes_named
from train.compiled_step import compiled_step
from train.data.batches import Batches
from train.model import find_base
from train.runs.json_lines import append_event
from train.start import StartConfig, begin

CONFIG = tiny_config.get_config()
LATER = dataclasses.replace(
    CONFIG,
    optimizer=dataclasses.replace(
        CONFIG.optimizer, learning_rate=2e-3, schedule="cosine", decay_steps=8, weight_decay=0.1
    ),
    objective=dataclasses.replace(CONFIG.objective, face_weight=2.0),
)
NAMES = (
    *("optimizer.learning-rate", "optimizer.schedule", "optimizer.decay-steps"),
    *("optimizer.weight-decay", "objective.face-weight"),
)


def test_names_take_hyphens_as_options_do():
    assert changes_named(CONFIG, NAMES) == [name.replace("-", "_") for name in NAMES]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("seed", "orders the data"),
        ("data.crop", "orders the data"),
        ("data.datasets.0.weight", "orders the data"),
        ("distillation.steps", "what is trained"),
        ("model.resampler", "what is trained"),
        ("optimizer.algorithm", "state of the other algorithm"),
        ("objective.prediction_type", "base model has it"),
        ("step.dtype", "base model is loaded in it"),
        ("steps", "may differ on resume in any case"),
        ("checkpoints.every", "may differ on resume in any case"),
        ("optimizer.skip-nonfinite", "may differ on resume in any case"),
        ("optimizer.learning-rates", "did you mean optimizer.learning_rate"),
        ("zzz", "no such setting"),
    ],
)
def test_other_names_are_refused_with_the_reason(name, reason):
    with pytest.raises(InputError, match=reason):
        changes_named(CONFIG, [name])


def test_every_changeable_setting_is_part_of_the_identity():
    """Otherwise a checkpoint would not record the change."""
    from train.changes import CHANGEABLE, OFF

    always = CHANGEABLE - OFF.keys() - {"objective.identity_weight", "objective.identity_window"}
    assert always <= CONFIG.identity().keys()


def test_a_change_has_both_values(tmp_path):
    saved, now = CONFIG.identity(), LATER.identity()
    made = changes_made(["optimizer.learning_rate"], saved, now, RunFolder(tmp_path))
    assert made == [Change("optimizer.learning_rate", 1e-3, 2e-3)]
    made = changes_made(
        ["optimizer.restarts"], saved, saved | {"optimizer.restarts": "[5]"}, RunFolder(tmp_path)
    )
    assert made == [Change("optimizer.restarts", [], [5])]


def test_an_unchanged_setting_is_refused_unless_it_changed_earlier(tmp_path):
    """The same command resumes a run that was stopped after the change."""
    run, now = RunFolder(tmp_path), LATER.identity()
    name = "optimizer.learning_rate"
    append_event(run, "changed", step=3, setting=name, was=2e-3, now=1e-3)
    with pytest.raises(InputError, match=r"it is 0\.002 already"):
        changes_made([name], now, now, run)
    append_event(run, "changed", step=4, setting=name, was=1e-3, now=2e-3)
    assert changes_made([name], now, now, run) == []


@pytest.fixture
def train(monkeypatch):
    """Trains on one device; a step compiles once for each configuration."""
    mesh = training_mesh((1, 1, 1), jax.devices()[:1])
    steps = {}

    def step_of(config, networks, _):
        key = config.optimizer, config.objective
        return steps.setdefault(key, compiled_step(config, networks, mesh))

    monkeypatch.setattr(loop, "training_mesh", lambda _: mesh)
    monkeypatch.setattr(loop, "compiled_step", step_of)

    def train(config, workdir, steps, *changes):
        config = dataclasses.replace(config, steps=steps)
        assert loop.train(config, workdir, StartConfig(change=changes)) == 0

    train.step_of, train.mesh = step_of, mesh
    return train


def by_hand(train, folder, phases):
    """The parameters after some steps of each configuration, on consecutive examples."""
    base = find_base(CONFIG.model)
    # The smallest pieces that all batches consist of.
    pieces = Batches(CONFIG.data, base.tokenizers, 2, CONFIG.seed)
    begun = begin(CONFIG, StartConfig(), RunFolder(folder), base, pieces, train.mesh)
    state, piece = begun.state, 0
    for config, steps in phases:
        size = config.global_batch_size
        take = train.step_of(config, base.networks, train.mesh)
        for _ in range(steps):
            parts = [pieces.batch(piece + i) for i in range(size // 2)]
            piece += size // 2
            names = parts[0].keys() - {"example_ids"}
            batch = {name: np.concatenate([part[name] for part in parts]) for name in names}
            placed = place_batch(batch, process_rows(size, train.mesh), size, train.mesh)
            state, _ = take(state, begun.constants, placed, jax.numpy.uint32(config.seed))
    return {name: jax.device_get(value) for name, value in state.params.items()}


def assert_parameters(workdir, step, wanted):
    found = training_process.state(workdir, step)
    for name, value in wanted.items():
        assert found[f"params/{name}"].tobytes() == value.tobytes(), name


def changed_events(workdir):
    return [event for event in training_process.events(workdir) if event["event"] == "changed"]


@pytest.mark.slow
def test_changed_run_equals_two_phases_by_hand(train, tmp_path):
    changed, stopped = tmp_path / "changed", tmp_path / "stopped"
    train(CONFIG, changed, 3)
    # The error says what would allow the change, and nothing is written.
    before = sorted(changed.rglob("*"))
    with pytest.raises(InputError, match=r"allow it with --change .*optimizer\.learning_rate"):
        train(LATER, changed, 7)
    with pytest.raises(InputError, match=r"face_weight was 0\.0, is 2\.0; revert this, allow"):
        train(LATER, changed, 7, *NAMES[:-1])
    assert sorted(changed.rglob("*")) == before
    shutil.copytree(changed, stopped)

    train(LATER, changed, 7, *NAMES)
    assert_parameters(changed, 7, by_hand(train, tmp_path / "by hand", [(CONFIG, 3), (LATER, 4)]))
    events = changed_events(changed)
    assert [event["setting"] for event in events] == changes_named(LATER, NAMES)
    assert events[0] == {
        **{"event": "changed", "step": 3, "setting": "optimizer.learning_rate"},
        **{"was": 1e-3, "now": 2e-3},
    }
    assert json.loads((changed / "config.json").read_text())["optimizer"]["learning_rate"] == 2e-3

    # Interrupted after the first step with the change; the next one needs no `--change`, and the
    # same command works too.
    train(LATER, stopped, 4, *NAMES)
    train(LATER, stopped, 5)
    train(LATER, stopped, 7, *NAMES)
    found, other = (training_process.state(each, 7) for each in (changed, stopped))
    assert all(found[name].tobytes() == other[name].tobytes() for name in found)
    assert training_process.trace(stopped) == training_process.trace(changed)


@pytest.mark.slow
def test_a_changed_batch_size_equals_phases_by_hand(train, tmp_path):
    """Twice; the data continue where they stood, also where a part is taken again after a kill."""
    workdir, name = tmp_path / "changed", "global-batch-size"
    twice, half = (dataclasses.replace(CONFIG, global_batch_size=size) for size in (8, 2))
    train(CONFIG, workdir, 3)
    with pytest.raises(InputError, match=r"global_batch_size was 4, is 8; revert this, allow it"):
        train(twice, workdir, 8)
    train(twice, workdir, 7, name)
    # As a kill after step 7 leaves it: from the checkpoint of step 6, without `--change`.
    shutil.rmtree(workdir / "checkpoints" / "7")
    train(twice, workdir, 8)
    train(half, workdir, 10, name)

    phases = [(CONFIG, 3), (twice, 5), (half, 2)]
    assert_parameters(workdir, 10, by_hand(train, tmp_path / "by hand", phases))
    lines = [line for line in training_process.metrics(workdir) if "loss" in line]
    assert [len(line["example_ids"]) for line in lines] == [4] * 3 + [8] * 5 + [2] * 2
    # 64 records, so that 56 examples are not yet an epoch.
    ids = [each for line in lines for each in line["example_ids"]]
    assert len(set(ids)) == len(ids) == 56
    sizes = [(event["step"], event["was"], event["now"]) for event in changed_events(workdir)]
    assert sizes == [(3, 4, 8), (8, 8, 2)]


def test_a_new_run_has_nothing_to_change(tmp_path):
    base = find_base(CONFIG.model)
    batches = Batches(CONFIG.data, base.tokenizers, CONFIG.global_batch_size, CONFIG.seed)
    with pytest.raises(InputError, match="has no checkpoint"):
        begin(
            CONFIG,
            StartConfig(change=NAMES),
            RunFolder(tmp_path),
            base,
            batches,
            training_mesh((1, 1, 1), jax.devices()[:1]),
        )
