"""Images are written with texts and read back, by us and by parsers that are not ours."""

import io
import json
import re
import zlib

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

from instantid_jax.errors import InputError
from instantid_jax.image_files import (
    LONGEST_EXIF,
    LONGEST_XMP,
    encode_image,
    read_text,
    save_image,
)
from instantid_jax.images import read_image
from tests.test_images import corner_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG")
TEXTS = {
    "plain": {"prompt": "film noir", "instantid": '{"a": 1}', "parameters": "film\nSteps: 3"},
    "unicode": {
        "prompt": "雨の中の男, naïve, 🎨",
        "parameters": "雨の中, 🎨\nSteps: 3, Seed: 1",
    },
    "markup": {"prompt": '<a href="b">&amp; ]]> <!DOCTYPE', "instantid": '"<x>\\n&"'},
    "no prompt": {"instantid": "{}"},
    "nothing": {},
}


@pytest.mark.parametrize(("name", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp")])
def test_encoded_images_have_the_bytes_of_files(tmp_path, name, suffix):
    image, text = Image.fromarray(corner_image()), TEXTS["unicode"]
    save_image(image, tmp_path / f"out{suffix}", text=text)
    assert encode_image(image, name, text=text) == (tmp_path / f"out{suffix}").read_bytes()
    low, high = (len(encode_image(image, name, text=text, quality=q)) for q in (5, 100))
    assert low == high if name == "PNG" else low < high


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("case", TEXTS)
def test_pixels_and_text_survive(tmp_path, suffix, case):
    path = tmp_path / "new" / f"out{suffix}"
    save_image(corner_image(), path, text=TEXTS[case])
    difference = np.abs(read_image(path).astype(int) - corner_image()).mean()
    # WebP halves the resolution of colors.
    assert difference < (1e-9 if suffix.lower() == ".png" else 3)
    assert read_text(path) == TEXTS[case]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_control_characters_and_bytes_of_names(tmp_path, suffix):
    """XML cannot hold the first, and UTF-8 not the second."""
    value = {"a": "\x00\x07\x1f \x7f\x85 \uffff", "name": "caf\udce9"}
    text = {"prompt": "a\x07b", "instantid": json.dumps(value, ensure_ascii=False)}
    save_image(corner_image(), tmp_path / f"a{suffix}", text=text)
    assert json.loads(read_text(tmp_path / f"a{suffix}")["instantid"]) == value


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_others_read_it(tmp_path, suffix):
    """By the formats' own structure, tifffile's EXIF and Pillow's; the web UI reads as piexif."""
    path, text = tmp_path / f"a{suffix}", TEXTS["unicode"]
    save_image(corner_image(), path, text=text)
    with Image.open(path) as image:
        exif, xmp = image.info["exif"], image.info["xmp"].decode()
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    expected = b"UNICODE\0" + text["parameters"].encode("utf-16-be")
    assert comment == expected
    with tifffile.TiffFile(io.BytesIO(exif.removeprefix(b"Exif\0\0"))) as file:
        read = file.pages[0].tags["ExifTag"].value["UserComment"]
    # It takes UTF-16 in the machine's order instead of EXIF's.
    assert read.encode("utf-16-le") == text["parameters"].encode("utf-16-be")
    assert f'<rdf:li xml:lang="x-default">{text["prompt"]}</rdf:li>' in xmp


def test_jpegs_keep_the_resolution_of_colors(tmp_path):
    save_image(corner_image(), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}


def long(count: int) -> str:
    return "".join(np.random.default_rng(0).choice(list("abcdefgh ,"), count))


def test_a_jpeg_is_written_without_what_is_too_long(tmp_path, caplog):
    path = tmp_path / "a.jpg"
    record, comment = f'"{long(50_000)}"', "x\nSteps: 1"
    # The prompt is in the record, too, and has to make room for it.
    save_image(corner_image(), path, text={"prompt": long(10_000), "instantid": record})
    assert read_text(path) == {"instantid": record} and not caplog.messages
    for keyword, value, kept in (
        ("parameters", long(40_000), {"instantid": record}),
        ("instantid", long(70_000), {"parameters": comment}),
    ):
        caplog.clear()
        text = {"instantid": record, "parameters": comment, keyword: value}
        save_image(corner_image(), path, text=text)
        assert read_text(path) == kept
        (line,) = caplog.messages
        assert f"{path} does not record '{keyword}': it is longer than the 64 KB" in line
        for other in ("a.png", "a.webp"):
            save_image(corner_image(), tmp_path / other, text=text)
            assert read_text(tmp_path / other) == text


def test_the_longest_texts_of_a_jpeg_fit(tmp_path, caplog):
    path = tmp_path / "a.jpg"
    room = LONGEST_XMP - 500
    save_image(corner_image(), path, text={"instantid": long(room), "parameters": long(32_700)})
    assert read_text(path)["instantid"] == long(room) and not caplog.messages
    most = (LONGEST_EXIF - 50 - 8) // 2
    for count, fits in ((most, True), (most + 1, False)):
        save_image(corner_image(), path, text={"parameters": long(count)})
        assert read_text(path) == ({"parameters": long(count)} if fits else {})


# An image of AUTOMATIC1111's web UI, and of programs that write as these cases.
PARAMETERS = "a man, 雨\nSteps: 20, Sampler: Euler a"
COMMENTS = {
    "big-endian": b"UNICODE\0" + PARAMETERS.encode("utf-16-be"),
    "little-endian": b"UNICODE\0" + PARAMETERS.encode("utf-16-le"),
    "with a mark": b"UNICODE\0" + PARAMETERS.encode("utf-16"),
    "ended": b"UNICODE\0" + f"{PARAMETERS}\0".encode("utf-16-be"),
    "ASCII": b"ASCII\0\0\0" + PARAMETERS.encode(),
    "undefined": bytes(8) + PARAMETERS.encode(),
    "bare": PARAMETERS.encode(),
}


@pytest.mark.parametrize("case", COMMENTS)
def test_comments_of_other_programs(tmp_path, case):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = COMMENTS[case]
    for name in ("a.jpg", "a.webp", "a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, exif=exif.tobytes())
        assert read_text(tmp_path / name) == {"parameters": PARAMETERS}


def test_xmp_that_other_programs_wrote_anew(tmp_path):
    """With properties as attributes, another prefix, and padding."""
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:ns0="urn:instantid_jax:" ns0:instantid="{&quot;a&quot;: 1}"/>'
        "</rdf:RDF></x:xmpmeta>" + " \n" * 1000
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", xmp=packet.encode())
    assert read_text(tmp_path / "a.jpg") == {"instantid": '{"a": 1}'}


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
    '<x xmlns:i="urn:instantid_jax:"><i:instantid>&b;</i:instantid></x>'
)


@pytest.mark.parametrize(
    "packet", [b"<x", b"\xff\xfe", b"", b"\0" * 9, BOMB.encode(), b"<x>" * 100, b"<y:x/>"]
)
def test_xmp_that_is_none_is_ignored(tmp_path, packet):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", xmp=packet)
    assert read_text(tmp_path / "a.jpg") == {}


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"xyz" * 9])
def test_damaged_exif_is_no_text_or_one_line(tmp_path, exif):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    try:
        assert read_text(tmp_path / "a.jpg") == {}
    except InputError as error:
        assert "cannot be read as an image" in str(error)


def test_damaged_files_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
    for suffix in (".png", ".jpg", ".webp"):
        path = tmp_path / f"a{suffix}"
        save_image(noise, path, text=TEXTS["plain"])
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(InputError, match="cannot be read as an image"):
            read_text(path)
    with pytest.raises(InputError, match="no such file"):
        read_text(tmp_path / "b.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path)


def test_a_bomb_of_pixels_is_refused(tmp_path):
    path = tmp_path / "a.png"
    save_image(corner_image(), path)
    data = bytearray(path.read_bytes())
    data[16:24] = (2**16).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="cannot be read as an image: Image size"):
        read_text(path)


@pytest.mark.parametrize("name", ["out.gif", "out.tiff", "out", "out.png.bak"])
def test_other_names_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=re.escape(".png, .jpg, .jpeg or .webp")):
        save_image(corner_image(), tmp_path / name)
    assert not [*tmp_path.iterdir()]


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        save_image(corner_image(), tmp_path / "folder.png")
    with pytest.raises(InputError, match="JPEG holds no RGBA"):
        save_image(Image.new("RGBA", (8, 8)), tmp_path / "a.jpg")
    with pytest.raises(InputError, match="a side of 16384 pixels, and WEBP has at most 16383"):
        save_image(Image.new("RGB", (16384, 1)), tmp_path / "a.webp")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]
    for name in ("a.png", "a.webp"):
        save_image(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert image.mode == "RGBA"
