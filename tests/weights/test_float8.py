"""Weights in float8, with and without scales: the values that torch reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

from instantid_jax.errors import InputError
from instantid_jax.weights.names import to_jax
from instantid_jax.weights.reading import read_params
from instantid_jax.weights.torch_files import open_tensors

TYPES = [torch.float8_e4m3fn, torch.float8_e5m2]
SAVES = {"x.safetensors": safetensors.torch.save_file, "x.bin": torch.save}


def every_value(dtype):
    """All 256 bit patterns, as a matrix."""
    return torch.arange(256, dtype=torch.uint8).view(dtype).reshape(8, 32)


def read(path, dtype):
    """A file's matrices, transposed and converted as a network's kernels are."""
    tensors = open_tensors(path).tensors
    shapes = {
        name.removesuffix("weight") + "kernel": jax.ShapeDtypeStruct(
            tensor.shape[::-1], jnp.float32
        )
        for name, tensor in tensors.items()
    }
    params = read_params(to_jax(tensors, shapes, "x"), dtype)
    return {name.removesuffix(".kernel"): np.asarray(value).T for name, value in params.items()}


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16", None])
def test_every_value_is_read_as_torch_casts_it(tmp_path, save, dtype, wanted):
    matrix = every_value(dtype)
    # A view, so that a pickle has an offset and strides.
    SAVES[save]({"a.weight": matrix, "b.weight": matrix[2:].T.contiguous()}, tmp_path / save)
    found = read(tmp_path / save, wanted and jnp.dtype(wanted))
    expected = matrix.to(getattr(torch, wanted or "float16")).float().numpy()
    assert found["a"].dtype == np.dtype(wanted or "float16")
    np.testing.assert_array_equal(found["a"].astype(np.float32), expected)
    np.testing.assert_array_equal(found["b"].astype(np.float32), expected[2:].T)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("leaf", ["scale_weight", "weight_scale"])
def test_scales_are_multiplied_before_the_one_rounding(tmp_path, dtype, wanted, leaf):
    torch.manual_seed(0)
    weights = {"one": torch.randn(8, 32), "rows": torch.randn(8, 32)}
    scales = {"one": torch.tensor(0.0123), "rows": torch.rand(8, 1)}
    saved = {"scaled_fp8": torch.zeros(0).to(dtype)}
    for name, weight in weights.items():
        saved[f"{name}.weight"] = weight.to(dtype)
        saved[f"{name}.{leaf}"] = scales[name]
        saved[f"{name}.scale_input"] = torch.tensor(7.0)
    safetensors.torch.save_file(saved, tmp_path / "x.safetensors")
    found = read(tmp_path / "x.safetensors", jnp.dtype(str(wanted).removeprefix("torch.")))
    assert found.keys() == weights.keys()
    for name in weights:
        exact = saved[f"{name}.weight"].double() * scales[name].double()
        np.testing.assert_array_equal(
            found[name].astype(np.float32), exact.to(wanted).float().numpy()
        )


def test_a_file_may_mix_dtypes(tmp_path):
    """Most weights in float8 or float16, a few in float32, in the order of the file."""
    saved = {
        "a.weight": torch.randn(3, 4).half(),
        "b.weight": torch.randn(3, 4),
        "c.weight": torch.randn(3, 4).to(torch.float8_e4m3fn),
        "d.weight": torch.randn(3, 4).bfloat16(),
    }
    safetensors.torch.save_file(saved, tmp_path / "x.safetensors")
    found = read(tmp_path / "x.safetensors", jnp.dtype("bfloat16"))
    for name, tensor in saved.items():
        np.testing.assert_array_equal(
            found[name.removesuffix(".weight")].astype(np.float32), tensor.bfloat16().float()
        )
    file = open_tensors(tmp_path / "x.safetensors")
    assert [str(file.dtype(name)) for name in saved] == [
        *("float16", "float32", "float8_e4m3fn", "bfloat16")
    ]


@pytest.mark.parametrize(
    ("weight", "scale", "message"),
    [
        (torch.ones(8, 4).to(torch.int8), torch.ones(()), r"a.weight is stored as int8 with a sc"),
        (
            torch.ones(8, 4).to(torch.float8_e5m2),
            torch.ones(2, 4),
            r"a.weight of shape \(8, 4\) has scales of shape \(2, 4\), expected one",
        ),
    ],
)
def test_other_quantizations_are_refused(tmp_path, weight, scale, message):
    saved = {"a.weight": weight, "a.scale_weight": scale}
    safetensors.torch.save_file(saved, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=message):
        open_tensors(tmp_path / "x.safetensors")


def test_nothing_is_read_until_it_is_asked_for(tmp_path, monkeypatch):
    saved = {"a.weight": every_value(TYPES[0]), "a.scale_weight": torch.tensor(2.0)}
    safetensors.torch.save_file(saved, tmp_path / "x.safetensors")
    from instantid_jax.weights import float8

    reads = []
    monkeypatch.setattr(float8, "_read", lambda *a: reads.append(a) or np.zeros((8, 32), "f4"))
    file = open_tensors(tmp_path / "x.safetensors")
    assert reads == [] and file.names() == ["a.weight"]
    file["a.weight"]
    assert len(reads) == 1
