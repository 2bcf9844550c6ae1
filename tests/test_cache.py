import jax
import pytest

from instantid_jax.cache import cache_folder, keep_compiled_programs

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_enable_compilation_cache",
)


@pytest.fixture(autouse=True)
def no_cache_yet():
    """JAX as a fresh process has it; afterwards as it was. Nothing compiles in between."""
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
def test_the_folder_is_among_the_users_caches(home, tmp_path, monkeypatch, unset):
    assert cache_folder() == home / "instantid_jax"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if unset is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
    assert cache_folder() == tmp_path / ".cache" / "instantid_jax"


def test_programs_are_kept_there_however_fast_they_compiled(home):
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(home / "instantid_jax" / "xla")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_a_cache_that_is_set_up_is_left_alone(home):
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == "/elsewhere"
    assert not home.exists()


def test_a_cache_that_is_switched_off_stays_off(home):
    jax.config.update("jax_enable_compilation_cache", False)
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None and not home.exists()


def test_without_a_writable_folder_programs_are_not_kept(home, caplog):
    home.write_text("a file where the folder should be")
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert "XDG_CACHE_HOME" in caplog.text and len(caplog.records) == 1
