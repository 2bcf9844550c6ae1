"""Weights files of every form, wrong files, and memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from instantid_jax.errors import InputError
from instantid_jax.weights.tensors import LazyTensor
from instantid_jax.weights.torch_files import open_tensors
from tests.weights.test_torch_zips import assert_read

DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
).split()


@pytest.fixture
def adapter():
    """A small ip-adapter: nested, as in its pickle."""
    return {
        "image_proj": {"latents": torch.randn(1, 16, 8), "proj_in.weight": torch.ones(8, 4)},
        "ip_adapter": {"1.to_k_ip.weight": torch.randn(8, 4).half()},
    }


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", ""])
def test_prefixes_of_wrappers_are_dropped_where_all_names_have_them(tmp_path, prefix):
    saved = {f"{prefix}a.weight": torch.ones(2), f"{prefix}module.bias": torch.zeros(3)}
    safetensors.torch.save_file(saved, tmp_path / "x.safetensors")
    torch.save(saved, tmp_path / "x.bin")
    for name in ("x.safetensors", "x.bin"):
        file = open_tensors(tmp_path / name)
        assert sorted(file) == ["a.weight", "module.bias"]
        np.testing.assert_array_equal(file["module.bias"], np.zeros(3))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_of_a_training_state_the_weights_are_taken(tmp_path, prefix):
    saved = {
        "epoch": 3,
        "state_dict": {f"{prefix}model.a": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
    }
    torch.save(saved, tmp_path / "x.ckpt")
    file = open_tensors(tmp_path / "x.ckpt")
    assert file.names() == ["model.a"] and file.metadata["epoch"] == 3


def test_every_dtype_of_safetensors_is_read(tmp_path):
    saved = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in DTYPES}
    saved |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    safetensors.torch.save_file(saved, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = open_tensors(tmp_path / "x.safetensors")
    assert file.metadata == {"format": "pt"}
    assert sorted(file) == sorted(saved) and len(file) == len(saved)
    for name, tensor in saved.items():
        assert_read(file, name, tensor)


def test_safetensors_without_metadata(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "x")
    assert open_tensors(tmp_path / "x").metadata == {}


def test_nested_pickle_reads_as_its_safetensors_form(adapter, tmp_path):
    flat = {f"{a}.{b}": tensor for a, part in adapter.items() for b, tensor in part.items()}
    torch.save(adapter, tmp_path / "ip-adapter.bin")
    safetensors.torch.save_file(flat, tmp_path / "ip-adapter.safetensors")
    pickle = open_tensors(tmp_path / "ip-adapter.bin")
    published = open_tensors(tmp_path / "ip-adapter.safetensors")
    assert sorted(pickle.names()) == sorted(published.names()) == sorted(flat)
    for name in flat:
        assert pickle[name].tobytes() == published[name].tobytes()
        assert pickle.dtype(name) == published.dtype(name)


def test_suffix_does_not_matter(adapter, tmp_path):
    torch.save(adapter, tmp_path / "x.safetensors")
    assert "image_proj.latents" in open_tensors(tmp_path / "x.safetensors")
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "x.ckpt")
    assert "a" in open_tensors(str(tmp_path / "x.ckpt"))


def test_mapping_reads_only_what_is_asked_for(tmp_path):
    torch.save({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "x.bin")
    file = open_tensors(tmp_path / "x.bin")
    reads = []
    file.tensors["a"] = LazyTensor((2,), np.dtype("f4"), lambda: reads.append("a"))
    assert "a" in file and "c" not in file and list(file.keys()) == ["a", "b"]
    assert file.shape("a") == (2,) and file.dtype("b") == np.float32
    assert reads == []
    next(iter(file.items()))
    assert reads == ["a"]
    with pytest.raises(KeyError):
        file["c"]


WRONG = {
    "nothing": (b"", "an empty file"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    "html": (b"\n <!DOCTYPE html><html>Sign in</html>", "a web page"),
    "html2": (b"<html lang=en>", "a web page"),
    "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page"),
    "config": (b'{"_class_name": "UNet2DConditionModel"}', "a JSON file"),
    "index": (b'{"weight_map": ["a"]}', "a JSON file"),
    "json": (b'{"weight_map": ', "a JSON file"),
    "deep": (b'{"weight_map": ' + b"[" * 100_000, "a JSON file"),
    "pickle": (b"\x80\x04}.", r"before 1\.6.*torch\.load"),
    "zip": (b"PK\x05\x06" + bytes(18), "empty or split zip"),
    "text": (b"hello, world", "begins with b'hello, w'"),
    "gguf": (b"GGUF\x03\x00\x00\x00rest", "neither safetensors nor"),
    "zeros": (bytes(4096), "neither safetensors nor"),
    "garbled": (b"\x10\x00\x00\x00\x00\x00\x00\x00{not JSON at all", "damaged or cut short"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_file_is_told(case, tmp_path):
    content, message = WRONG[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_tensors(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_legacy_pickle_is_told(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(
        InputError, match=r"before 1\.6, which is not supported; save it again: torch"
    ):
        open_tensors(tmp_path / "x.pth")


def test_folder_and_missing_file_are_told(tmp_path):
    with pytest.raises(InputError, match=r"a folder, expected a weights file in it \(it has none"):
        open_tensors(tmp_path)
    (tmp_path / "model.fp16.safetensors").touch()
    with pytest.raises(InputError, match=r"one of model\.fp16\.safetensors"):
        open_tensors(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        open_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kept", [9, 60, 400, -1])
def test_safetensors_cut_short_is_told(kept, tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({f"t{i}": torch.ones(50) for i in range(9)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"damaged or cut short safetensors file of \d+ bytes"):
        open_tensors(path)


def test_dtype_that_numpy_lacks_is_refused_by_name(tmp_path):
    saved = {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.complex64)}
    safetensors.torch.save_file(saved, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"1 of 2 tensors .* \('b' is C64\)"):
        open_tensors(tmp_path / "x.safetensors")


SHARDED = {
    "safetensors": ("model.safetensors.index.json", safetensors.torch.save_file),
    "pickles": ("pytorch_model.bin.index.json", torch.save),
}


def write_shards(folder, kind, *, shards=None, weight_map=None):
    name, save = SHARDED[kind]
    shards = shards or {
        "1.bin": {"a": torch.ones(1), "b": torch.ones(2)},
        "2.bin": {"c": torch.ones(3)},
    }
    for shard, tensors in shards.items():
        save(tensors, folder / shard)
    if weight_map is None:
        weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    (folder / name).write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )
    return folder / name


@pytest.mark.parametrize("kind", SHARDED)
def test_shards_read_as_one(kind, tmp_path):
    file = open_tensors(write_shards(tmp_path, kind))
    assert {name: file[name].shape for name in file} == {"a": (1,), "b": (2,), "c": (3,)}


def test_shards_through_links_to_files_without_names(tmp_path):
    """As huggingface_hub's cache has them."""
    index = write_shards(tmp_path, "safetensors")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for number, path in enumerate([index, tmp_path / "1.bin", tmp_path / "2.bin"]):
        path.rename(tmp_path / "blobs" / str(number))
        (tmp_path / "snapshot" / path.name).symlink_to(f"../blobs/{number}")
    assert len(open_tensors(tmp_path / "snapshot" / index.name)) == 3


@pytest.mark.parametrize("kind", SHARDED)
def test_missing_shard_is_told(kind, tmp_path):
    index = write_shards(tmp_path, kind)
    (tmp_path / "2.bin").unlink()
    with pytest.raises(InputError, match=r"1 of 2 shards are missing \(2\.bin\)"):
        open_tensors(index)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "1.bin", "c": "2.bin", "d": "2.bin"}, r"not in the shard .* \('d' in 2\.bin\)"),
        (
            {"a": "2.bin", "b": "1.bin"},
            r"1 tensors are not in the shard it names \('a' in 2\.bin\)",
        ),
        ({"a": "../1.bin"}, r"outside its folder \('\.\./1\.bin'\)"),
        ({"a": "/etc/passwd"}, "outside its folder"),
        ({"a": ""}, "shards are missing"),
        ({"a": "model.safetensors.index.json"}, "a JSON file"),
    ],
)
def test_index_that_does_not_fit_is_refused(weight_map, message, tmp_path):
    with pytest.raises(InputError, match=message):
        open_tensors(write_shards(tmp_path, "safetensors", weight_map=weight_map))


@pytest.mark.parametrize("kind", SHARDED)
def test_tensor_in_two_shards_is_told(kind, tmp_path):
    shards = {"1.bin": {"a": torch.ones(1), "b": torch.ones(1)}, "2.bin": {"b": torch.zeros(1)}}
    with pytest.raises(InputError, match=r"'b' is in two shards, 1\.bin and 2\.bin"):
        open_tensors(write_shards(tmp_path, kind, shards=shards))


def test_damaged_shard_is_named(tmp_path):
    index = write_shards(tmp_path, "safetensors")
    (tmp_path / "2.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"2\.bin: an empty file"):
        open_tensors(index)


PEAK = """
import sys, threading, time
from instantid_jax.weights.torch_files import open_tensors

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

file = open_tensors(sys.argv[1])
file[file.names()[0]][:1]
start, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.0005)

watcher = threading.Thread(target=watch)
watcher.start()
total = 0
for name in file:
    tensor = file[name]
    assert float(tensor.reshape(-1)[-1]) == 1.0
    total += tensor.nbytes
    del tensor
done = True
watcher.join()
print(total, peak - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("form", ["safetensors", "pickle", "float8", "shared storage", "shards"])
def test_memory_stays_near_the_largest_tensor(form, tmp_path):
    largest = 16 * 2**20
    path = tmp_path / "x"
    weights = {f"t{i}": np.ones((2048, 2048), np.float32) for i in range(19)}
    if form == "safetensors":
        safetensors.numpy.save_file(weights, path)
    elif form == "float8":
        # A quarter of the memory; read in float32, because of the scale.
        eights = {f"t{i}.weight": torch.full((2048, 2048), 2.0) for i in range(19)}
        saved = {name: value.to(torch.float8_e4m3fn) for name, value in eights.items()}
        saved |= {f"t{i}.scale_weight": torch.tensor(0.5) for i in range(19)}
        safetensors.torch.save_file(saved, path)
    elif form == "shared storage":
        whole = torch.ones(19, 2048, 2048)
        torch.save({f"t{i}": whole[i] for i in range(19)}, path)
    else:
        weights = {name: torch.from_numpy(value) for name, value in weights.items()}
        if form == "pickle":
            torch.save(weights, path)
        else:
            halves = {"1": dict(list(weights.items())[:9]), "2": dict(list(weights.items())[9:])}
            path = write_shards(tmp_path, "pickles", shards=halves)
    command = [sys.executable, "-c", PEAK, str(path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=os.environ)
    assert done.returncode == 0, done.stderr
    total, peak = map(int, done.stdout.split())
    assert total == 19 * largest
    assert peak < 1.5 * largest
