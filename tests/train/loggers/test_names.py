"""Names of loggers are checked before anything is written."""

import pytest

from instantid_jax.errors import InputError
from train.loggers.names import check_loggers


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["comet"], "expected tensorboard, wandb, mlflow"),
        (["tensorboard", "tensorboard"], "each name once"),
    ],
)
def test_wrong_names_are_refused(names, message):
    with pytest.raises(InputError, match=message):
        check_loggers(names)


def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path):
    # A folder that W&B makes is not the package.
    (tmp_path / "wandb").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(InputError, match=r"loggers=wandb: .*pip install -e '\.\[wandb\]'"):
        check_loggers(["wandb"])


def test_the_default_is_known():
    check_loggers([])
    check_loggers(["tensorboard"])
