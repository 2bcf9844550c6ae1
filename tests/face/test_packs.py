import pytest

from instantid_jax.errors import InputError
from instantid_jax.face.packs import PackNotFoundError, find_pack, pack_folder


def make(folder, *files):
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).touch()
    return folder


def test_a_folder_is_taken_as_it_is(tmp_path):
    folder = make(tmp_path / "mine", "a.onnx")
    assert find_pack(folder) == find_pack(str(folder)) == folder


def test_a_name_is_looked_up_under_the_root(tmp_path):
    folder = make(tmp_path / "models" / "antelopev2", "a.onnx")
    assert find_pack("antelopev2", root=tmp_path) == folder


def test_the_root_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = make(tmp_path / ".insightface" / "models" / "antelopev2", "a.onnx")
    assert find_pack("antelopev2") == pack_folder("antelopev2") == folder


def test_a_nested_unzip_is_used(tmp_path):
    outer = tmp_path / "models" / "antelopev2"
    inner = make(outer / "antelopev2", "a.onnx", "b.onnx")
    make(outer / "__MACOSX", "._a.onnx")
    assert find_pack("antelopev2", root=tmp_path) == inner
    assert find_pack(outer) == inner


def test_a_missing_pack_names_the_places_and_the_ways_to_get_it(tmp_path):
    with pytest.raises(PackNotFoundError) as error:
        find_pack("antelopev2", root=tmp_path)
    message = str(error.value)
    assert str(tmp_path / "models" / "antelopev2") in message
    assert "--download-face-pack" in message and "unzip" in message and "\n" not in message


def test_folders_without_models_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no \.onnx files \(it holds x\.zip\)") as error:
        find_pack(make(tmp_path / "models" / "antelopev2", "x.zip"))
    assert not isinstance(error.value, PackNotFoundError)
    with pytest.raises(InputError, match="it holds nothing"):
        find_pack(make(tmp_path / "empty"))


def test_several_packs_in_a_folder_are_refused(tmp_path):
    make(tmp_path / "models" / "a", "x.onnx")
    make(tmp_path / "models" / "b", "x.onnx")
    with pytest.raises(InputError, match="several packs"):
        find_pack(tmp_path / "models")


def test_a_file_is_refused(tmp_path):
    make(tmp_path, "antelopev2.zip")
    with pytest.raises(InputError, match="is a file"):
        find_pack(tmp_path / "antelopev2.zip")
