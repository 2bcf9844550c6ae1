"""Offsets of the records of an ArrayRecord file, from the file's end.

ArrayRecord is a Riegeli/records file whose last 64 KiB locate a chunk with the offsets of all
chunks (array_record's cpp/layout.proto, and Riegeli's specification of its file format). Its
package reads local files only; with the offsets, a part of a file can be fetched for it.
"""

import struct
from collections.abc import Callable

import numpy as np
import pyarrow

# Every block of a file starts with a header that interrupts the chunks.
_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 2**16, 24, 40
_UNCOMPRESSED, _ZSTD = 0, ord("z")
_SIMPLE_CHUNK = ord("r")
# Holds the end of a file with a few thousand records.
_TAIL = 2**18


def read_offsets(size: int, read: Callable[[int, int], bytes]) -> tuple[np.ndarray, bytes]:
    """Reads the offsets of a file's records, written with `group_size:1`.

    Args:
      size: the file's size in bytes.
      read: reads its bytes from one place to another.
    Returns:
      [records + 1] int64: record i is in the chunk from offset i to offset i + 1. And the file's
      bytes from the last offset on.
    Raises:
      ValueError: if it is not such a file.
    """
    start = max(0, size - _TAIL)
    tail = read(start, size)
    try:
        # The postscript's first field is where the chunk of offsets starts.
        footer = _first_field(_records(tail[-_BLOCK:], size - _BLOCK)[0])
        if not 0 < footer <= size - _BLOCK:
            raise ValueError(f"offset {footer} in {size} bytes")
        tail = tail[footer - start :] if footer >= start else read(footer, start) + tail
        # The first entry describes the file.
        _, *chunks = _records(tail[:-_BLOCK], footer)
        offsets = np.array([*map(_first_field, chunks), footer], np.int64)
    except (IndexError, ValueError, struct.error, pyarrow.ArrowException) as error:
        raise ValueError(f"not an ArrayRecord file ({error})") from error
    if not (np.diff(offsets) > 0).all():
        raise ValueError("not an ArrayRecord file (its offsets do not ascend)")
    return offsets, tail


def _records(data: bytes, position: int) -> list[bytes]:
    """The records of the chunk that starts at a position of a file.

    Args:
      data: the file's bytes from there on.
    """
    chunk = bytearray()
    place = 0
    while place < len(data):
        if (position + place) % _BLOCK == 0:
            place += _BLOCK_HEADER
        end = place + _BLOCK - (position + place) % _BLOCK
        chunk += data[place:end]
        place = end
    # Hash of the header, size and hash of the data, type, ...
    _, size, _, kind = struct.unpack_from("<QQQB", chunk)
    body = bytes(chunk[_CHUNK_HEADER : _CHUNK_HEADER + size])
    if kind != _SIMPLE_CHUNK or len(body) != size:
        raise ValueError(f"a chunk of type {kind} with {len(body)} of {size} bytes")
    length, start = _varint(body, 1)
    sizes = _decompressed(body[start : start + length], body[0])
    values = _decompressed(body[start + length :], body[0])
    records, place, begin = [], 0, 0
    while place < len(sizes):
        length, place = _varint(sizes, place)
        records.append(values[begin : begin + length])
        begin += length
    return records


def _decompressed(data: bytes, kind: int) -> bytes:
    if kind == _UNCOMPRESSED:
        return data
    if kind != _ZSTD:
        raise ValueError(f"compression {chr(kind)!r}")
    size, start = _varint(data, 0)
    return pyarrow.decompress(data[start:], size, "zstd", asbytes=True)


def _first_field(message: bytes) -> int:
    """The value of a protobuf message's field 1, an integer that comes first."""
    if message[0] != 1 << 3:
        raise ValueError(f"a message that starts with {message[:4].hex()}")
    return _varint(message, 1)[0]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in base 128, least significant digits first, and the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
