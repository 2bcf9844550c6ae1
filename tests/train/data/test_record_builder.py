"""Images and metadata of any kind become records, or are rejected with a reason."""

import dataclasses
import inspect
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from instantid_jax import Face
from tests.train.prepare import web
from train.data import record_builder
from train.data.build import build
from train.data.record import features
from train.data.record_builder import (
    DECIDING_OPTIONS,
    Rejected,
    captions_of,
    record_of,
    upright_jpeg,
)
from train.data.sidecars import Sidecars
from train.prepare.filtering import Filter


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def test_rejects_decompression_bombs():
    with pytest.raises(Rejected, match=r"^unreadable image$"):
        upright_jpeg(png_header(60_000, 60_000))


@pytest.mark.parametrize("error", [struct.error, KeyError, RuntimeError, RecursionError])
def test_any_plugin_error_rejects_the_image(monkeypatch, error):
    monkeypatch.setattr(record_builder, "read_image", lambda _: (_ for _ in ()).throw(error("odd")))
    with pytest.raises(Rejected, match=r"^unreadable image$"):
        upright_jpeg(web.encoded(web.photo()))


def test_memory_errors_do_not_reject_the_image(monkeypatch):
    monkeypatch.setattr(record_builder, "read_image", lambda _: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        upright_jpeg(web.encoded(web.photo()))


def test_rejects_images_too_long_for_jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 65_501)).save(buffer, format="PNG")
    with pytest.raises(Rejected, match=r"^image side too long$"):
        upright_jpeg(buffer.getvalue())


def test_stores_unencodable_text_and_ignores_oversized_dimensions():
    image = upright_jpeg(web.encoded(web.photo(web.ONE)))
    face = Face(
        embedding=np.ones(512),
        kps=np.array([[40, 30], [60, 30], [50, 40], [42, 50], [58, 50]], np.float32),
        image_size=image.size,
        bbox=np.array([30, 20, 82, 72], np.float32),
        det_score=0.9,
    )
    half = "\ud83d"
    notes = {"captions": {"x": half}, "NSFW": half, "LICENSE": half, "identity": half}
    record = record_of(
        f"a{half}",
        image,
        face,
        captions=captions_of(Sidecars(half, notes), "alt"),
        notes=notes | {"original_width": 2**40, "original_height": 5},
        references=np.zeros((0, 512), np.float32),
    )
    assert record.key == "a\\ud83d" and record.captions == {"x": "\\ud83d", "alt": "\\ud83d"}
    assert record.original_size == image.size
    feature = features(512)
    feature.serialize_example(feature.encode_example(record.encode()))


def test_the_options_behind_rejections_exist():
    names = [*inspect.signature(build).parameters, *(f.name for f in dataclasses.fields(Filter))]
    options = {f"--{name.replace('_', '-')}" for name in names}
    assert options >= set(DECIDING_OPTIONS.values())
