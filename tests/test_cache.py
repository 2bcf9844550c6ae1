import errno
import pwd
import tempfile

import jax
import pytest

from instantid_jax.cache import cache_folder, keep_compiled_programs
from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.face.packs import PackNotFoundError, find_pack

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_enable_compilation_cache",
)


@pytest.fixture(autouse=True)
def no_cache():
    """Resets JAX's cache settings to those of a new process, and restores them afterward."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("unset", [None, ""])
def test_folder_is_in_the_users_cache(home, tmp_path, monkeypatch, unset):
    assert cache_folder() == home / "instantid_jax"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if unset is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
    assert cache_folder() == tmp_path / ".cache" / "instantid_jax"


def test_keeps_all_compiled_programs(home):
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(home / "instantid_jax" / "xla")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_keeps_a_configured_cache(home):
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == "/elsewhere"
    assert not home.exists()


def test_keeps_the_cache_disabled(home):
    jax.config.update("jax_enable_compilation_cache", False)
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None and not home.exists()


def test_warns_without_a_writable_folder(home, caplog):
    home.write_text("a file where the folder should be")
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert "XDG_CACHE_HOME" in caplog.text and len(caplog.records) == 1


@pytest.fixture
def homeless(monkeypatch):
    """Nobody's: no HOME, and a user without an entry."""

    def unknown(_):
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_works_without_a_home(homeless, caplog):
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    (record,) = caplog.records
    assert "no home folder is known" in record.getMessage()
    with pytest.raises(InputError, match="set HOME or XDG_CACHE_HOME"):
        cache_folder()


def test_finds_face_packs_without_a_home(homeless, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PackNotFoundError, match="face pack antelopev2 not found"):
        find_pack("antelopev2")
    with pytest.raises(InputError, match="not a known home folder: set HOME"):
        FaceAnalyzer("antelopev2", download=True)
    assert list(tmp_path.iterdir()) == []


def test_warns_once_of_a_read_only_folder(home, caplog, monkeypatch):
    """Root may write anywhere, so the file system's answer is made up."""

    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    (record,) = caplog.records
    assert "Read-only file system" in record.getMessage()


def test_a_cache_folder_that_is_not_absolute_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in ("rel", "gs://bucket/c", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert cache_folder() == tmp_path / ".cache" / "instantid_jax"
