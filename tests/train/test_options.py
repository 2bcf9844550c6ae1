"""Every setting is an option, also where a configuration does not have it."""

import re
from pathlib import Path

import pytest

from train import loop
from train.__main__ import main
from train.data.batch_sizes import BatchSizes
from train.data.config import CaptionShare
from train.validation.config import ValidationConfig

ROOT = Path(__file__).parents[2]
H200 = ROOT / "configs" / "gpu_h200_8.py"


@pytest.fixture
def configured(monkeypatch, tmp_path):
    """Runs the program and returns the configuration that would be trained."""
    seen = []

    def train(config, *_):
        seen.append(config)
        return 0

    monkeypatch.setattr(loop, "train", train)

    def call(*options, config=H200):
        with pytest.raises(SystemExit) as ended:
            main([str(config), "--workdir", str(tmp_path / "run"), *options])
        return seen.pop() if ended.value.code == 0 else ended.value.code

    return call


def test_datasets_are_added_by_number(configured):
    data = configured(
        *("--data.datasets.0.folder", "a", "--data.datasets.2.folder", "c"),
        *("--data.datasets.1.folder", "b", "--data.datasets.1.weight", "0.5"),
    ).data
    assert [share.folder for share in data.datasets] == ["a", "b", "c"]
    assert [share.weight for share in data.datasets] == [1, 0.5, 1]


def test_captions_are_chosen(configured):
    data = configured(
        *("--data.captions.0.source", "blip2", "--data.captions.1.source=alt"),
        *("--data.captions.1.weight", "3"),
    ).data
    assert data.captions == (CaptionShare(source="blip2"), CaptionShare(source="alt", weight=3))


def test_validation_is_turned_on(configured):
    validation = configured(
        "--validation.dataset", "held-out", "--validation.records", "8"
    ).validation
    assert validation == ValidationConfig(dataset="held-out", records=8)


@pytest.mark.parametrize(
    ("option", "missing"),
    [
        ("--data.datasets.1.weight", "--data.datasets.1.folder"),
        ("--data.captions.0.weight", "--data.captions.0.source"),
        ("--validation.records", "--validation.dataset"),
    ],
)
def test_a_setting_without_its_name_is_refused(configured, capsys, option, missing):
    assert configured(option, "2") == 2
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize("name", ["debug", "tpu_v5p_128"])
def test_every_option_has_a_help_text(capsys, name):
    with pytest.raises(SystemExit):
        main([str(ROOT / "configs" / f"{name}.py"), "--help", "--validation."])
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    assert "--data.datasets.1.folder DIR adds a dataset" in " ".join(lines)
    options = re.findall(r"(?m)^(--[a-z].*)\n((?:(?!--)[^╰].*\n)+)", "\n".join(lines))
    assert len(options) > 75
    for option, meaning in options:
        assert re.search(r"[a-z]{3,}.*\((default|required)", " ".join(meaning.split())), option


def test_a_switch_that_is_on_has_both_forms(configured):
    config = ROOT / "configs" / "tpu_v5p_128.py"
    assert configured(config=config).step.scan is True
    assert configured("--step.no-scan", config=config).step.scan is False
    assert configured("--step.scan", config=H200).step.scan is True


def test_a_configuration_keeps_its_validation(configured):
    config = configured("--validation.records", "3", config=ROOT / "configs" / "debug.py")
    assert config.validation.records == 3 and config.validation.dataset


def test_a_length_in_epochs_replaces_steps(configured):
    config = configured("--epochs", "3")
    assert (config.steps, config.epochs) == (None, 3)
    # The last of three epochs of 65 in batches of 96 ends in the third batch.
    sizes = BatchSizes.constant(96)
    config = config.in_steps(65, sizes)
    assert (config.steps, config.epochs, config.last_step) == (3, None, 3)
    assert configured("--steps=7").steps == 7
    assert config.in_steps(1000, sizes) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "3", "--steps", "7"), "--steps and --epochs: give one of them"),
        (("--epochs=0",), "epochs=0: expected 1 or more"),
    ],
)
def test_refused_lengths(configured, capsys, options, message):
    assert configured(*options) == 2
    assert message in capsys.readouterr().err
