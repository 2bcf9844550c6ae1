"""Data measured by another recognizer than the weights', or than the identity loss's."""

import json

import pytest

from instantid_jax import embedded
from instantid_jax.errors import InputError
from instantid_jax.face.packs import ANTELOPEV2_RECOGNIZER, recognizer_hash
from instantid_jax.runs.folder import RunFolder
from tests.runs.trained_run import write_run
from train.config import ModelConfig
from train.recognizers import check_recognizers

OTHER = "5" * 64
MINIATURE = embedded.FACE_PACK / "recogniser.onnx"
START = str(embedded.INSTANTID)


def model(**settings) -> ModelConfig:
    return ModelConfig(sdxl="some/sdxl", **settings)


@pytest.mark.parametrize(
    ("start", "measured"),
    [
        (None, OTHER),
        (START, recognizer_hash(MINIATURE)),
        ("some/instantid", ANTELOPEV2_RECOGNIZER + 56 * "0"),
    ],
)
def test_a_fitting_recognizer_is_recorded(start, measured, tmp_path, caplog):
    config = model(instantid=start)
    assert check_recognizers(config, RunFolder(tmp_path), measured) == measured
    assert check_recognizers(config, RunFolder(tmp_path), None) is None
    assert not caplog.messages


@pytest.mark.parametrize("start", [START, "some/instantid"])
def test_weights_of_another_recognizer_get_a_warning(start, tmp_path, caplog):
    assert check_recognizers(model(instantid=start), RunFolder(tmp_path), OTHER) == OTHER
    (warned,) = caplog.messages
    assert warned.startswith("the data were measured by another recognizer (SHA-256 55555555...)")
    assert start in warned


def test_a_run_remembers_its_recognizer(tmp_path, caplog):
    run = RunFolder(tmp_path / "run")
    write_run(run.path)
    assert check_recognizers(model(), run, None) is None
    settings = json.loads(run.networks.read_text()) | {"recognizer": "1" * 64}
    run.networks.write_text(json.dumps(settings))
    assert check_recognizers(model(), run, None) == "1" * 64
    assert check_recognizers(model(), run, "1" * 64) == "1" * 64
    assert not caplog.messages
    # A run that starts from it.
    new = RunFolder(tmp_path / "new")
    assert check_recognizers(model(instantid=str(run.path)), new, OTHER) == OTHER
    (warned,) = caplog.messages
    assert f"than that of {run.path} (11111111...)" in warned


def test_the_identity_loss_needs_the_recognizer_of_the_data(tmp_path):
    config = model(recognizer=str(MINIATURE))
    own = recognizer_hash(MINIATURE)
    assert check_recognizers(config, RunFolder(tmp_path), own) == own
    with pytest.raises(InputError, match=f"has the SHA-256 {own[:8]}.*measured by 55555555"):
        check_recognizers(config, RunFolder(tmp_path), OTHER)
