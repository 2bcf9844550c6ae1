"""The archives of `torch.save`: every layout of a tensor in a storage, and damaged archives."""

import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch

from instantid_jax.errors import InputError
from instantid_jax.weights.torch_files import open_tensors
from tests.weights.handwritten import dict_of, storage, tensor, write_archive

DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()


def as_numpy(tensor):
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def assert_read(file, name, tensor):
    got, expected = file[name], as_numpy(tensor)
    assert file.shape(name) == got.shape == tuple(tensor.shape)
    assert file.dtype(name) == got.dtype == expected.dtype
    assert got.flags.c_contiguous and got.flags.writeable
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read(dtype, tmp_path):
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * 10
    values = values.to(getattr(torch, dtype))
    saved = {"matrix": values, "scalar": values[1, 2].clone()}
    torch.save(saved, tmp_path / "x.pth")
    file = open_tensors(tmp_path / "x.pth")
    assert file.names() == list(saved)
    for name in saved:
        assert_read(file, name, saved[name])


def views():
    base = torch.arange(120, dtype=torch.float32).reshape(4, 5, 6)
    return {
        "base": base,
        "transposed": base.transpose(0, 2),
        "permuted": base.permute(2, 0, 1),
        "rows": base[2:],
        "column": base[:, 3, 1],
        "every_second": base[::2, 1:, ::3],
        "element": base[3, 4, 5],
        "expanded": base[0, :1].expand(7, 6),
        "empty": base[:0],
        "channels_last": base[None].contiguous(memory_format=torch.channels_last),
        "bfloat16_transposed": base[0].to(torch.bfloat16).T,
        "parameter": torch.nn.Parameter(base[1].T),
    }


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", views())
def test_views_and_shared_storages_are_read(name, compression, tmp_path):
    saved = views()
    torch.save(saved, tmp_path / "x.bin")
    path = tmp_path / "x.bin"
    if compression != zipfile.ZIP_STORED:
        path = tmp_path / "y.bin"
        with (
            zipfile.ZipFile(tmp_path / "x.bin") as old,
            zipfile.ZipFile(path, "w", compression) as new,
        ):
            for entry in old.namelist():
                new.writestr(entry, old.read(entry))
    assert_read(open_tensors(path), name, saved[name].detach())


def test_two_reads_share_no_memory(tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "x.bin")
    file = open_tensors(tmp_path / "x.bin")
    file["a"][:] = 1
    np.testing.assert_array_equal(file["a"], 0)


def saved_bytes(tmp_path):
    torch.save({"a": torch.arange(1000.0), "b": torch.ones(3)}, tmp_path / "good.bin")
    return (tmp_path / "good.bin").read_bytes()


@pytest.mark.parametrize("kept", [10, 1000, 4000, -1, -30])
def test_archive_cut_short_is_told(kept, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(saved_bytes(tmp_path)[:kept])
    with pytest.raises(InputError, match=r"damaged or cut short zip .* download or copy") as caught:
        open_tensors(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_archive_with_a_hole_is_told_when_read(tmp_path):
    content = bytearray(saved_bytes(tmp_path))
    with zipfile.ZipFile(tmp_path / "good.bin") as archive:
        start = archive.getinfo("good/data/0").header_offset
    content[start : start + 30] = bytes(30)
    (tmp_path / "x.bin").write_bytes(content)
    file = open_tensors(tmp_path / "x.bin")
    np.testing.assert_array_equal(file["b"], 1)
    with pytest.raises(InputError, match="no local header"):
        file["a"]


def test_archive_cut_short_after_it_was_opened_is_told(tmp_path):
    content = saved_bytes(tmp_path)
    file = open_tensors(tmp_path / "good.bin")
    (tmp_path / "good.bin").write_bytes(content[:2000])
    with pytest.raises(InputError, match="ends early"):
        file["a"]


def test_compressed_entry_that_is_damaged_is_told(tmp_path):
    path = write_archive(tmp_path / "x.bin", dict_of(tensor((4,), (1,))), compression=8)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("archive/data/0")
    start = info.header_offset + 30 + len(info.filename)
    content[start : start + info.compress_size] = b"\xff" * info.compress_size
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        open_tensors(path)["a"]


def test_big_endian_is_refused(tmp_path):
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", dict_of(tensor((4,), (1,))))
        archive.writestr("x/byteorder", "big")
        archive.writestr("x/data/0", bytes(16))
    with pytest.raises(InputError, match="byte order 'big', expected little"):
        open_tensors(path)


def test_archive_without_byteorder_is_little_endian(tmp_path):
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", dict_of(tensor((4,), (1,))))
        archive.writestr("x/data/0", np.arange(4, dtype="<f4").tobytes())
    np.testing.assert_array_equal(open_tensors(path)["a"], [0, 1, 2, 3])


def test_other_zip_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("weights/model.safetensors", b"...")
    with pytest.raises(InputError, match=r"without the data\.pkl of torch\.save"):
        open_tensors(tmp_path / "x.bin")


@pytest.mark.parametrize("key", ["../../data/0", "/etc/passwd", "../byteorder", "1"])
def test_storage_outside_the_archive_is_refused(key, tmp_path):
    data = dict_of(tensor((1,), (1,), of=storage(key)))
    path = write_archive(tmp_path / "x.bin", data, extra={"../../evil": b"x" * 16})
    with pytest.raises(InputError, match="damaged"):
        open_tensors(path)
    assert not (tmp_path.parent.parent / "evil").exists()


def test_storage_longer_than_its_entry_is_refused(tmp_path):
    data = dict_of(tensor((2**40,), (1,), of=storage(elements=2**40)))
    with pytest.raises(InputError, match=r"a needs 1099511627776 values .* has 16 bytes"):
        open_tensors(write_archive(tmp_path / "x.bin", data))


def test_entry_that_claims_to_expand_beyond_deflate_is_refused(tmp_path):
    data = dict_of(tensor((2**28,), (1,), of=storage(elements=2**28)))
    path = write_archive(tmp_path / "x.bin", data, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    # The uncompressed size in the central directory, 22 bytes before the name.
    place = content.rindex(b"archive/data/0") - 22
    content[place : place + 4] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a needs 268435456 values"):
        open_tensors(path)


def test_encrypted_and_other_compressions_are_refused(tmp_path):
    data = dict_of(tensor((4,), (1,)))
    path = write_archive(tmp_path / "x.bin", data, compression=zipfile.ZIP_BZIP2)
    with pytest.raises(InputError, match="compressed with method 12"):
        open_tensors(path)
    content = bytearray(write_archive(path, data).read_bytes())
    content[content.rindex(b"archive/data/0") - 38] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        open_tensors(path)


def test_entries_of_one_name_are_refused(tmp_path):
    path = tmp_path / "x.bin"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's, about what is being made here
        write_archive(path, dict_of(tensor((4,), (1,))), extra={"archive/data/0": bytes(16)})
    with pytest.raises(InputError, match="two entries of one name"):
        open_tensors(path)
