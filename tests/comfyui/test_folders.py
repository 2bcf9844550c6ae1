"""Names of weights in ComfyUI's folders."""

import importlib

import pytest

from comfyui import folders


@pytest.fixture(autouse=True)
def reloaded(models):
    """The module with the folder of this test."""
    importlib.reload(folders)
    yield
    importlib.reload(folders)


def test_names_are_found_where_comfyui_keeps_their_kind(models, tmp_path):
    for file in ("checkpoints/xl/base.safetensors", "instantid/published/x", "loras/detail.st"):
        (models / file).parent.mkdir(parents=True)
        (models / file).touch()
    found = folders.find_weights("checkpoints", "xl/base.safetensors")
    assert found == str(models / "checkpoints/xl/base.safetensors")
    # ComfyUI itself has no such kind.
    assert folders.find_weights("instantid", "published") == str(models / "instantid/published")
    assert folders.find_lora("detail.st:0.5") == f"{models / 'loras/detail.st'}:0.5"
    assert folders.find_lora("detail.st") == str(models / "loras/detail.st")


def test_paths_and_hub_ids_stay_as_they_are(tmp_path):
    (tmp_path / "base.safetensors").touch()
    for name in (str(tmp_path / "base.safetensors"), "InstantX/InstantID"):
        assert folders.find_weights("checkpoints", name) == name
    assert folders.find_weights("checkpoints", "") is None
    assert folders.find_lora("someone/lora/file.safetensors:0.8:0.5") == (
        "someone/lora/file.safetensors:0.8:0.5"
    )


def test_face_packs_are_found_where_other_nodes_keep_them(models):
    assert folders.find_face_pack("antelopev2") is None
    pack = models / "insightface/models/antelopev2"
    pack.mkdir(parents=True)
    assert folders.find_face_pack("antelopev2") == str(pack)
    assert folders.find_face_pack(str(pack)) == str(pack)
