import os
import stat

import pytest

from instantid_jax.atomic import new_folder, replacing_file


def test_a_file_appears_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "out.txt"
    with replacing_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_there_is_replaced(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with replacing_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_with_the_rights_of_any_other(tmp_path):
    path = tmp_path / "models" / "x"
    with new_folder(path) as temporary:
        (temporary / "config.json").touch()
        assert not path.exists()
    (tmp_path / "plain").mkdir()
    assert [each.name for each in path.iterdir()] == ["config.json"]
    assert list(path.parent.iterdir()) == [path]
    rights = [stat.S_IMODE(os.stat(each).st_mode) for each in (path, tmp_path / "plain")]
    assert rights[0] == rights[1]


def test_an_empty_folder_may_be_there(tmp_path):
    with new_folder(tmp_path / "x") as temporary:
        (temporary / "a").touch()
        (tmp_path / "x").mkdir()
    assert (tmp_path / "x" / "a").exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_is_not_overwritten(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    (path if kind == "file" else path / "old").touch()
    with pytest.raises(FileExistsError, match="not an empty folder"), new_folder(path):
        pytest.fail("begun")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(OSError), new_folder(path):
        path.mkdir()
        (path / "other").touch()
    assert [each.name for each in path.iterdir()] == ["other"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_no_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "x") as temporary:
        (temporary / "half").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
