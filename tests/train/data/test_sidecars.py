"""Captions and metadata as people write them."""

import json

import pytest

from train.data.record_builder import captions_of
from train.data.sidecars import object_of, parse_sidecars, read_sidecars, text_of

TEXT = "Ein größeres Café – für „dich“"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_reads_captions_in_other_encodings(encoding):
    assert text_of(f" {TEXT}\r\n".encode(encoding)) == TEXT
    notes = json.dumps({"caption": TEXT}, ensure_ascii=False).encode(encoding)
    assert object_of(notes) == {"caption": TEXT}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("穿着红色外套的女人站在雪地里微笑，背景是高山和湖泊", "gb18030"),
        ("Женщина в красном пальто улыбается на снегу у озера", "cp1251"),
    ],
)
def test_reads_captions_in_the_likeliest_encoding(text, encoding):
    assert text_of(text.encode(encoding)) == text


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xfe\xff\x00", bytes(range(256))])
def test_any_bytes_are_text(data):
    assert isinstance(text_of(data), str)
    object_of(data)


def test_takes_the_first_caption_that_is_not_empty():
    notes = {"text": "from the metadata", "prompt": "another"}
    members = {"txt": b" \n", "caption": b"", "json": json.dumps(notes).encode()}
    assert parse_sidecars(members).caption == "from the metadata"
    assert parse_sidecars(members | {"caption": b"kept"}).caption == "kept"
    assert parse_sidecars({"txt": b"\xef\xbb\xbf", "json": b"[1]"}) == (None, {})


def test_records_no_empty_captions():
    notes = {"captions": {"blip": "", "llava": None, "cog": " a man "}}
    sidecars = parse_sidecars({"txt": b"", "json": json.dumps(notes).encode()})
    assert captions_of(sidecars, "alt") == {"cog": "a man"}
    # A source of that name in the metadata is not lost.
    assert captions_of(sidecars, "cog") == {"cog": "a man"}
    assert captions_of(sidecars._replace(caption="x"), "cog") == {"cog": "x"}


def test_reads_files_next_to_an_image(tmp_path):
    image = tmp_path / "a.b.JPG"
    (tmp_path / "a.b.TXT").write_text("in capitals")
    (tmp_path / "a.b.json").write_text('{"key": 1}')
    (tmp_path / "a.txt").write_text("another image's")
    assert read_sidecars(image) == ("in capitals", {"key": 1})
