"""Whose faces InstantID weights know, however they are given."""

import json

import pytest

from instantid_jax import embedded
from instantid_jax.errors import InputError
from instantid_jax.face.packs import ANTELOPEV2_RECOGNIZER, recognizer_hash
from instantid_jax.runs.recognizers import named_recognizer, recognizer_of
from tests.runs.trained_run import write_run

OTHER = "5" * 64
MINIATURE = recognizer_hash(embedded.FACE_PACK / "recogniser.onnx")


def note(file, **settings):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings))


def test_the_embedded_model_is_known_by_any_path(monkeypatch):
    monkeypatch.chdir(embedded.INSTANTID.parent)
    assert recognizer_of("instantid") == recognizer_of(str(embedded.INSTANTID)) == MINIATURE


def test_a_run_says_its_own_or_nothing(tmp_path):
    run = tmp_path / "run"
    write_run(run)
    assert recognizer_of(str(run)) is None and named_recognizer(str(run)) == {}
    networks = run / "networks.json"
    note(networks, **json.loads(networks.read_text()), recognizer=OTHER)
    assert recognizer_of(str(run)) == OTHER


@pytest.mark.parametrize("file", ["config.json", "instantid_jax.json"])
def test_a_folder_says_its_own_or_is_of_antelopev2(file, tmp_path):
    assert recognizer_of(str(tmp_path)) == ANTELOPEV2_RECOGNIZER
    note(tmp_path / file, dim_head=16)
    assert recognizer_of(str(tmp_path)) == ANTELOPEV2_RECOGNIZER
    assert named_recognizer(str(tmp_path)) == {}
    note(tmp_path / file, recognizer=OTHER)
    assert recognizer_of(str(tmp_path)) == OTHER
    assert named_recognizer(str(tmp_path)) == {"recognizer": OTHER}
    note(tmp_path / file, recognizer=ANTELOPEV2_RECOGNIZER + 56 * "0")
    assert named_recognizer(str(tmp_path)) == {}
    note(tmp_path / file, recognizer=5)
    with pytest.raises(InputError, match="recognizer=5: expected a SHA-256 or nothing"):
        recognizer_of(str(tmp_path))


def test_a_hub_repository_says_its_own_or_is_of_antelopev2(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--me--faces"
    note(folder / "snapshots" / "1a2b" / "config.json", recognizer=OTHER)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1a2b")
    assert recognizer_of("me/faces") == recognizer_of("me/faces@main") == OTHER
    assert recognizer_of("me/other") == recognizer_of("me/faces@v2") == ANTELOPEV2_RECOGNIZER
