import errno
import os
import re
import stat

import pytest

from instantid_jax.atomic import new_folder, replacing_file
from instantid_jax.errors import InputError


def test_file_appears_complete_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "out.txt"
    with replacing_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_replaces_an_existing_file(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with replacing_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_failure_leaves_only_the_old_file(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_folder_appears_complete_with_default_permissions(tmp_path):
    path = tmp_path / "models" / "x"
    with new_folder(path) as temporary:
        (temporary / "config.json").touch()
        assert not path.exists()
    (tmp_path / "plain").mkdir()
    assert [each.name for each in path.iterdir()] == ["config.json"]
    assert list(path.parent.iterdir()) == [path]
    modes = [stat.S_IMODE(os.stat(each).st_mode) for each in (path, tmp_path / "plain")]
    assert modes[0] == modes[1]


def test_accepts_an_empty_folder(tmp_path):
    with new_folder(tmp_path / "x") as temporary:
        (temporary / "a").touch()
        (tmp_path / "x").mkdir()
    assert (tmp_path / "x" / "a").exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_does_not_overwrite_existing_paths(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    (path if kind == "file" else path / "old").touch()
    with pytest.raises(FileExistsError, match="not an empty folder"), new_folder(path):
        pytest.fail("the block ran")
    assert list(tmp_path.iterdir()) == [path]


def test_keeps_a_folder_that_appears_meanwhile(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(OSError), new_folder(path):
        path.mkdir()
        (path / "other").touch()
    assert [each.name for each in path.iterdir()] == ["other"]
    assert list(tmp_path.iterdir()) == [path]


def test_failure_leaves_no_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "x") as temporary:
        (temporary / "half").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("creating", [replacing_file, new_folder])
def test_a_failure_leaves_no_parents(tmp_path, creating):
    (tmp_path / "there").mkdir()
    with pytest.raises(ZeroDivisionError), creating(tmp_path / "there" / "a" / "b" / "c"):
        raise ZeroDivisionError
    assert [*tmp_path.rglob("*")] == [tmp_path / "there"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with replacing_file(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"


def test_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a file that can be replaced"):
        replacing_file(tmp_path / "pipe").__enter__()
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["file/x", "loop/x", "a/" * 2100 + "x", "x" * 300])
@pytest.mark.parametrize("creating", [replacing_file, new_folder])
def test_impossible_places_get_one_line(tmp_path, creating, name):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError) as error:
        creating(tmp_path / name).__enter__()
    assert re.search("cannot be created|so long a name|is not a file", str(error.value))
    assert len(str(error.value)) < 1000


def test_the_longest_names_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".png")
    with replacing_file(path) as temporary:
        temporary.write_text("all of it")
    assert path.read_text() == "all of it"


def test_other_errors_name_the_file(tmp_path):
    with pytest.raises(OSError) as error, replacing_file(tmp_path / "a.png"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path)
