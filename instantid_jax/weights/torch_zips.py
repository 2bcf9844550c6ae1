"""Zip archives written by `torch.save`: data.pkl, and one entry per storage.

Layout: `torch/serialization.py:_save` of PyTorch 1.6 and later.
"""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.weights import pickles
from instantid_jax.weights.pickle_names import Tensor
from instantid_jax.weights.pickles import quoted

LOCAL_HEADER_BYTES = 30
# DEFLATE's best: 258 bytes in two bits.
MAX_DEFLATE_RATIO = 1032


class TorchZip:
    """One archive. Reads its pickle at once, and a storage when a tensor is read.

    Attributes:
      tensors: tensors by dotted name.
      leaves: the pickle's numbers, strings and so on, by dotted name.
    """

    def __init__(self, path: Path):
        """Opens an archive.

        Raises:
          InputError: if it is damaged, not from `torch.save`, or contains more than tensors.
        """
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        # zipfile raises NotImplementedError for unknown versions of the format.
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise self._damaged(error) from error
        self._entries = {info.filename: info for info in self._zip.infolist()}
        if len(self._entries) != len(self._zip.infolist()):
            raise self._damaged("two entries of one name")
        folders = [name.removesuffix("/data.pkl") for name in self._entries if _is_pickle(name)]
        if len(folders) != 1:
            raise InputError(
                f"{path}: a zip archive without the data.pkl of torch.save; expected weights "
                "(unpack it first if it is a zipped folder)"
            )
        self._folder = folders[0]
        self._check_byte_order()
        tree = pickles.load(self._small_entry("data.pkl", pickles.MAX_BYTES), path)
        self.tensors, self.leaves = pickles.flatten(tree, path)
        for name, tensor in self.tensors.items():
            self._check(name, tensor)

    def read(self, tensor: Tensor) -> np.ndarray:
        """Reads the values into new, contiguous memory.

        Raises:
          InputError: if this part of the archive is damaged.
        """
        dtype = tensor.storage.dtype
        values = np.empty(tensor.extent * dtype.itemsize, np.uint8)
        if values.size:
            self._read_into(values, tensor.storage.key, tensor.offset * dtype.itemsize)
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
        view = np.ndarray(tensor.shape, dtype, values, strides=strides)
        return view if view.flags.c_contiguous else view.copy(order="C")

    def _read_into(self, values: np.ndarray, key: str, start: int) -> None:
        info = self._entries[f"{self._folder}/data/{key}"]
        try:
            if info.compress_type == zipfile.ZIP_STORED:
                # Bypasses zipfile, which would copy, and read each storage from its start.
                with self.path.open("rb") as file:
                    file.seek(_data_offset(file, info.header_offset) + start)
                    count = file.readinto(values.data)
            else:
                with self._zip.open(info) as file:
                    file.seek(start)
                    count = _fill(file, values)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._damaged(error) from error
        if count != values.size:
            raise self._damaged(f"entry {key} ends early")

    def _check(self, name: str, tensor: Tensor) -> None:
        storage = tensor.storage
        info = self._entries.get(f"{self._folder}/data/{storage.key}")
        if info is None:
            raise self._damaged(f"no data/{storage.key}, the values of {name}")
        if info.flag_bits & 1:
            raise InputError(f"{self.path}: encrypted; expected a file as torch.save wrote it")
        if info.compress_type == zipfile.ZIP_STORED:
            sound = info.file_size == info.compress_size
        elif info.compress_type == zipfile.ZIP_DEFLATED:
            sound = info.file_size <= MAX_DEFLATE_RATIO * info.compress_size
        else:
            raise InputError(
                f"{self.path}: compressed with method {info.compress_type}; "
                "expected a file as torch.save wrote it"
            )
        if not sound or info.file_size < storage.elements * storage.dtype.itemsize:
            raise self._damaged(
                f"{name} needs {storage.elements} values of {storage.dtype}, "
                f"data/{storage.key} has {info.file_size} bytes"
            )

    def _check_byte_order(self) -> None:
        # Missing before PyTorch 2.1, whose files are little-endian.
        if f"{self._folder}/byteorder" in self._entries:
            order = self._small_entry("byteorder", 16)
            if order != b"little":
                raise InputError(
                    f"{self.path}: byte order {quoted(order.decode('latin1'))}, expected little; "
                    "load and save it with torch on a little-endian machine"
                )

    def _small_entry(self, name: str, limit: int) -> bytes:
        info = self._entries[f"{self._folder}/{name}"]
        if info.file_size > limit:
            raise InputError(
                f"{self.path}: its {name} has {info.file_size} bytes, a weights file's at most "
                f"{limit}; {pickles.ADVICE}"
            )
        try:
            return self._zip.read(info)
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise self._damaged(error) from error

    def _damaged(self, why: Any) -> InputError:
        size = os.path.getsize(self.path)
        return InputError(
            f"{self.path}: damaged or cut short zip archive of {size} bytes ({quoted(why)}); "
            "download or copy the file again"
        )


def _is_pickle(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


def _data_offset(file: BinaryIO, header_offset: int) -> int:
    """Offset of an entry's bytes: after its local header, which has a variable length."""
    file.seek(header_offset)
    header = file.read(LOCAL_HEADER_BYTES)
    if len(header) < LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header")
    name = int.from_bytes(header[26:28], "little")
    extra = int.from_bytes(header[28:30], "little")
    return header_offset + LOCAL_HEADER_BYTES + name + extra


def _fill(file: Any, values: np.ndarray) -> int:
    """Fills `values` in parts; returns the number of bytes read."""
    filled = 0
    while filled < values.size:
        part = file.read(min(2**20, values.size - filled))
        if not part:
            break
        values[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    return filled
