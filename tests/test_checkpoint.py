"""Converted models in Orbax's format: round trips, and reports of damage."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax import checkpoint
from instantid_jax.checkpoint import (
    INDEX,
    check_values,
    load_params,
    open_model,
    save_model,
    save_params,
    stored_params,
)
from instantid_jax.errors import InputError
from instantid_jax.pipeline.sources import Sources
from tests.convert.published import UNET, write_published

DTYPES = ("float32", "float16", "bfloat16")


def params():
    rng = np.random.default_rng(0)
    return {
        f"block.{i}.{name}": jnp.asarray(rng.standard_normal(shape), dtype)
        for i, dtype in enumerate(DTYPES)
        for name, shape in {"kernel": (3, 4, 5), "bias": (7,), "one/two": (1,)}.items()
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A converted model."""
    folder = tmp_path_factory.mktemp("checkpoint")
    source = folder / "source"
    write_published(source, unet=UNET, controlnet=UNET, dtype="float32")
    list(save_model(Sources(sdxl=str(source), instantid=str(source)).find(), folder / "model"))
    return folder / "model"


@pytest.fixture
def damaged(model, tmp_path):
    """A copy of the model, for tests that damage it."""
    return shutil.copytree(model, tmp_path / "copy")


def test_params_round_trip(tmp_path):
    saved = params()
    save_params(saved, tmp_path / "params")
    stored = stored_params(tmp_path / "params")
    loaded = load_params(tmp_path / "params", stored)
    assert set(loaded) == set(stored) == set(saved)
    for name, array in saved.items():
        assert stored[name].dtype == loaded[name].dtype == array.dtype
        assert stored[name].shape == array.shape
        assert np.asarray(loaded[name]).tobytes() == np.asarray(array).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_params_are_read_in_the_requested_dtype(tmp_path, dtype):
    saved = params()
    save_params(saved, tmp_path / "params")
    loaded = load_params(tmp_path / "params", stored_params(tmp_path / "params"), jnp.dtype(dtype))
    for name, array in saved.items():
        assert loaded[name].dtype == dtype
        assert np.array_equal(loaded[name], array.astype(dtype)), name


@pytest.mark.parametrize(("dtype", "loaded"), [("float32", None), ("float16", jnp.float32)])
def test_array_larger_than_orbaxs_limit(tmp_path, monkeypatch, dtype, loaded):
    """Orbax rejects arrays of at least its limit; SDXL has such arrays in float32."""
    monkeypatch.setattr(checkpoint, "IN_FLIGHT_BYTES", 3_000_000)
    large = jnp.arange(1_000_000, dtype=dtype)
    save_params({"large": large, "small": large[:3]}, tmp_path / "params")
    wanted = stored_params(tmp_path / "params")
    read = load_params(tmp_path / "params", wanted, loaded)
    assert np.array_equal(read["large"], large)


def test_rejects_params_of_another_network(tmp_path):
    save_params(params(), tmp_path / "params")
    wanted = stored_params(tmp_path / "params")
    del wanted["block.0.bias"]
    wanted["block.9.bias"] = wanted["block.1.bias"]
    with pytest.raises(InputError, match=r"1 missing: block.9.bias; 1 unexpected: block.0.bias"):
        load_params(tmp_path / "params", wanted)


def test_rejects_folders_that_are_not_converted_models(tmp_path):
    with pytest.raises(InputError, match=r"not a converted model .*python -m convert to-jax"):
        open_model(tmp_path)
    (tmp_path / INDEX).write_text('{"format": 99}')
    with pytest.raises(InputError, match=r"has format 99, expected 1"):
        open_model(tmp_path)


def test_leaves_nothing_of_a_model_that_cannot_be_read(model, tmp_path):
    parts = open_model(model)

    def fail(dtype):
        raise InputError("damaged")

    object.__setattr__(parts.components["image_proj"], "load", fail)
    with pytest.raises(InputError, match="damaged"):
        list(save_model(parts, tmp_path / "again"))
    assert list(tmp_path.iterdir()) == []


def test_leaves_nothing_when_the_caller_stops(model, tmp_path):
    saving = save_model(open_model(model), tmp_path / "again")
    assert [next(saving), next(saving)] == ["unet", "vae"]
    saving.close()
    assert list(tmp_path.iterdir()) == []


def test_rejects_existing_output(model):
    before = sorted(model.iterdir())
    with pytest.raises(FileExistsError):
        list(save_model(open_model(model), model))
    assert sorted(model.iterdir()) == before


def parameter_files(model):
    return sorted(p for p in model.rglob("params/**/*") if p.is_file())


def test_index_lists_every_parameter_file(model):
    files = json.loads((model / INDEX).read_text())["files"]
    assert list(files) == [str(p.relative_to(model)) for p in parameter_files(model)]


@pytest.mark.parametrize("how", ["cut short", "cut by a byte", "empty", "missing"])
def test_reports_truncated_files(damaged, how):
    largest = max(parameter_files(damaged), key=lambda p: p.stat().st_size)
    content = largest.read_bytes()
    if how == "missing":
        largest.unlink()
    else:
        length = {"cut short": len(content) // 2, "cut by a byte": len(content) - 1, "empty": 0}
        largest.write_bytes(content[: length[how]])
    with pytest.raises(InputError) as error:
        open_model(damaged)
    line = str(error.value)
    assert "\n" not in line and str(largest.relative_to(damaged)) in line
    found = "is missing" if how == "missing" else f"has {length[how]} bytes"
    assert f"{damaged} is damaged" in line and found in line


def test_reports_a_flipped_bit(damaged):
    """Orbax itself does not detect corrupted values."""
    largest = max(parameter_files(damaged), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    open_model(damaged)
    with pytest.raises(InputError, match=f"the checksum of .*{largest.name} has changed"):
        check_values(damaged)


def test_accepts_an_intact_model(model):
    open_model(model)
    check_values(model)


def test_reports_orbaxs_exceptions_in_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be read") as error:
        stored_params(tmp_path / "nothing")
    assert "\n" not in str(error.value)

    save_params({"kernel": jnp.ones((100, 100))}, tmp_path / "params")
    wanted = stored_params(tmp_path / "params")
    for file in (tmp_path / "params" / "ocdbt.process_0" / "d").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read") as error:
        load_params(tmp_path / "params", wanted)
    assert "\n" not in str(error.value)
