import logging
import os
import threading

import numpy as np
import pytest
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.images import find_images, read_image

RED = (200, 30, 40)


def corner_image(height=24, width=40):
    """Blue with a red top left quarter, so that rotations are visible."""
    image = np.full((height, width, 3), (20, 40, 220), np.uint8)
    image[: height // 2, : width // 2] = RED
    return image


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tiff"])
def test_files_are_read_as_rgb(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(corner_image()).save(path, **options)
    for source in (path, str(path), Image.open(path)):
        got = read_image(source)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, corner_image())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_undone(tmp_path, suffix, orientation):
    # The inverse of each orientation's transform (EXIF 2.32, tag 0x0112).
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo(corner_image()))
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    got = read_image(tmp_path / f"a.{suffix}")
    assert got.shape == (24, 40, 3)
    # JPEG blurs the quarter's border; its middle and the image's corners keep their colors.
    np.testing.assert_allclose(got[4, 8], RED, atol=6)
    for y, x in ((4, 36), (20, 4), (20, 36)):
        np.testing.assert_allclose(got[y, x], (20, 40, 220), atol=6)


def test_transparency_is_composited_on_white(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[:4, :, 3] = 255
    rgba[4:6, :, 3] = 128
    Image.fromarray(rgba).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(got[[0, 5, 7], 0], [[255, 0, 0], [255, 127, 127], [255] * 3])

    gray = Image.merge("LA", [Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 0)])
    np.testing.assert_array_equal(read_image(gray), 255)

    palette = Image.fromarray(corner_image()).quantize(4)
    index = palette.getpixel((0, 0))
    palette.save(tmp_path / "p.png", transparency=index)
    got = read_image(tmp_path / "p.png")
    np.testing.assert_array_equal(got[0, 0], 255)
    np.testing.assert_allclose(got[20, 36], (20, 40, 220), atol=4)


def test_palette_transparency_in_bytes_logs_nothing(tmp_path, caplog):
    palette = Image.fromarray(corner_image()).quantize(4)
    palette.save(tmp_path / "p.png", transparency=bytes([0, 0, 0, 0]))
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), 255)
    assert not caplog.records


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "HSV"])
def test_other_modes_become_rgb(mode):
    white = Image.new("RGB", (6, 4), "white").convert(mode)
    np.testing.assert_array_equal(read_image(white), np.full((4, 6, 3), 255, np.uint8))


def test_cmyk_jpeg_keeps_its_colors(tmp_path):
    Image.fromarray(corner_image()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg")[4, 8], RED, atol=8)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_gray_keeps_its_high_byte(tmp_path, suffix):
    gray = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    Image.fromarray(gray).save(tmp_path / f"a.{suffix}")
    got = read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(got, np.repeat((gray >> 8)[..., None], 3, -1))


def test_rejects_wider_pixels(tmp_path):
    with pytest.raises(InputError, match="32-bit pixels"):
        read_image(Image.fromarray(np.array([[70000]], np.int32)))
    with pytest.raises(InputError, match="floating-point"):
        read_image(Image.fromarray(np.ones((2, 2), np.float32)))


def test_reads_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif")[0, 0], [255, 0, 0])


def test_arrays_are_checked_and_returned():
    image = corner_image()
    assert read_image(image) is image
    for wrong, message in (
        (image.astype(np.float32), "float32"),
        (image[..., 0], r"\[24, 40\]"),
        (np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\]"),
        (image[:0], "empty"),
    ):
        with pytest.raises(InputError, match=message):
            read_image(wrong)


def test_reports_unusable_sources_in_one_line(tmp_path):
    def rejects(source, message):
        with pytest.raises(InputError, match=message) as error:
            read_image(source)
        assert "\n" not in str(error.value)

    (tmp_path / "text.jpg").write_text("this is not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for suffix in ("jpg", "png", "webp", "gif", "tiff"):
        Image.fromarray(noise).save(tmp_path / f"whole.{suffix}")
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
        rejects(tmp_path / f"cut.{suffix}", f"cut.{suffix} is (damaged|not an image)")

    rejects(tmp_path / "missing.jpg", "missing.jpg: no such file")
    rejects(tmp_path / "text.jpg", "text.jpg is not an image")
    rejects(tmp_path / "empty.png", "empty.png is not an image")
    rejects(tmp_path, "is a folder")
    rejects("x" * 5000, "no file can have so long a name")
    rejects(Image.new("RGB", (0, 3)), "empty: its size is 0 x 3")
    with Image.open(tmp_path / "cut.jpg") as lazy:
        rejects(lazy, "cut.jpg is damaged")
    rejects(b"\xff\xd8", "cannot be a bytes")


def test_rejects_images_with_too_many_pixels(tmp_path, monkeypatch):
    Image.fromarray(corner_image(40, 40)).save(tmp_path / "a.png")
    # 1600 pixels are more than 2 * 500, but less than 2 * 1000, where Pillow only warns.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(InputError, match=r"a.png has more than 1,000 pixels"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_image(tmp_path / "a.png").shape == (40, 40, 3)


def test_logs_pillows_warnings(tmp_path, caplog):
    exif = Image.Exif()
    exif[0x0112] = 1
    exif[0x010F] = "maker" * 10
    Image.fromarray(corner_image()).save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    # The maker's text gets an offset beyond the end of the block.
    at = data.index(b"\x01\x0f\x00\x02") + 8
    (tmp_path / "a.jpg").write_bytes(data[:at] + b"\x00\x00\xff\x00" + data[at + 4 :])
    with caplog.at_level(logging.WARNING):
        read_image(tmp_path / "a.jpg")
    assert "a.jpg is used despite Pillow's warning" in caplog.text


def test_find_images_lists_a_folder_in_order(tmp_path):
    for name in ("b.JPG", "a/c.png", "notes.txt", "._b.JPG", "a/.hidden.png", ".a/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path) == [tmp_path / "a/c.png", tmp_path / "b.JPG"]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        find_images(tmp_path / "none")
    with pytest.raises(InputError, match="no such file or folder"):
        find_images(tmp_path / "missing")


def test_find_images_logs_the_images_that_it_skips(tmp_path, caplog):
    for name in ("a.jpg", "b.JFIF", "c.CR2", "d.svg", "e.dng", "f.dng", "g.txt", ".h.dng"):
        (tmp_path / name).touch()
    (tmp_path / "folder.dng").mkdir()
    with caplog.at_level(logging.WARNING):
        assert find_images(tmp_path) == [tmp_path / "a.jpg", tmp_path / "b.JFIF"]
    assert "not read: .cr2 (1), .dng (2), .svg (1); save them as JPEG or PNG" in caplog.text


@pytest.mark.parametrize("suffix", [".heic", ".avif", ".jfif"])
def test_formats_of_cameras_and_the_web_are_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    kind = "HEIF" if suffix == ".heic" else None
    gray = Image.new("RGB", (32, 16), (120, 130, 140))
    gray.save(path, kind)
    assert find_images(tmp_path) == [path]
    np.testing.assert_allclose(read_image(path), np.asarray(gray), atol=4)


def test_reads_what_comes_out_of_a_pipe(tmp_path):
    Image.new("RGB", (4, 3), "red").save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(
        target=lambda: (tmp_path / "pipe").write_bytes((tmp_path / "a.png").read_bytes())
    )
    writer.start()
    np.testing.assert_array_equal(read_image(tmp_path / "pipe"), read_image(tmp_path / "a.png"))
    writer.join()


@pytest.mark.parametrize("mode", ["I", "I;16"])
def test_gray_values_of_eight_bits_stay(mode):
    values = np.arange(256, dtype=np.uint16 if mode == "I;16" else np.int32).reshape(16, 16)
    np.testing.assert_array_equal(read_image(Image.fromarray(values))[..., 0], values)


def test_a_closed_image_is_not_called_damaged(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.load()
    image.close()
    with pytest.raises(InputError, match="pass an image that is open"):
        read_image(image)
