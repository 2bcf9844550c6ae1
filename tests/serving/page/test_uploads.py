"""Uploads: formats, sizes and damage are refused by the file's own name."""

import numpy as np
import pytest
from PIL import Image

from instantid_jax import Face, InputError
from instantid_jax.serving.page import uploads


def write(path, size=(4, 2), **options):
    Image.new("RGB", size, "red").save(path, **options)
    return str(path)


def test_images_are_read_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = write(tmp_path / "a.jpg", exif=exif)
    assert uploads.read_upload(path).shape == (4, 2, 3)


def test_bad_images_are_named_without_their_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "PIXELS", 100)
    (tmp_path / "text.png").write_text("no image")
    whole = (tmp_path / "whole.png", (tmp_path / "cut.png"))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)).save(whole[0])
    whole[1].write_bytes(whole[0].read_bytes()[:120])
    cases = {
        write(tmp_path / "large.png", (11, 10)): "large.png has more than 100 pixels",
        write(tmp_path / "a.gif"): "a.gif is not an image in a format that is read: expected one",
        str(tmp_path / "text.png"): "text.png is not an image in a format that is read",
        str(whole[1]): "cut.png is damaged",
    }
    for path, message in cases.items():
        with pytest.raises(InputError) as refused:
            uploads.read_upload(path)
        assert str(refused.value).startswith(message)
        assert str(tmp_path) not in str(refused.value)


def test_face_files_are_read_unless_they_are_too_large(tmp_path, monkeypatch):
    face = Face(embedding=np.ones(512), kps=[[1, 2], [3, 2], [2, 3], [1, 4], [3, 4]])
    face.save(tmp_path / "me.npz")
    path = str(tmp_path / "me.npz")
    np.testing.assert_array_equal(uploads.read_face_file(path).kps, face.kps)
    monkeypatch.setattr(uploads, "FACE_BYTES", 100)
    with pytest.raises(InputError, match=r"^me\.npz is not a face file: it holds"):
        uploads.read_face_file(path)
    (tmp_path / "bad.npz").write_text("x")
    with pytest.raises(InputError, match=r"^bad\.npz is not a face file"):
        uploads.read_face_file(str(tmp_path / "bad.npz"))
