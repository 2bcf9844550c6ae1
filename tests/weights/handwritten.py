"""Pickles and archives written by hand, for what `torch.save` would never write."""

import struct
import zipfile

import numpy as np

# Protocol 2.
START = b"\x80\x02"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(n):
    return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)


def storage(key="0", elements=4, kind=b"FloatStorage"):
    name = b"ctorch\n" + kind + b"\n"
    return b"(" + text("storage") + name + text(key) + text("cpu") + integer(elements) + b"tQ"


def tensor(shape, strides, offset=0, of=None):
    """A view of `of`, which is the storage of four float32 that `write_archive` makes."""
    sizes = b"(" + b"".join(map(integer, shape)) + b"t(" + b"".join(map(integer, strides)) + b"t"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (of or storage())
        + integer(offset)
        + sizes
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def dict_of(value):
    """A whole pickle: {'a': value}."""
    return START + b"}" + text("a") + value + b"s."


def write_archive(path, data, *, compression=zipfile.ZIP_STORED, extra=None):
    """An archive as `torch.save` lays it out around `data`, with a storage of four float32."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return path
