"""Files of styles, as other programs write them."""

import csv
import json

import pytest

from instantid_jax import text_files
from instantid_jax.errors import InputError
from instantid_jax.request.style_files import read_styles
from instantid_jax.request.styles import STYLES, Style

OFFICIAL = {style.name for style in STYLES}


def own(path) -> list[Style]:
    """Styles of a file without the official ones, which follow."""
    return [style for style in read_styles(path) if style.name not in OFFICIAL]


@pytest.fixture
def write(tmp_path):
    def write(contents: str | bytes, name="styles.csv"):
        path = tmp_path / name
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        return path

    return write


def test_sdxl_prompt_stylers_json(write):
    rows = [
        {"name": "sai-anime", "prompt": "anime {prompt} . vivid", "negative_prompt": "photo"},
        {"name": "base", "prompt": "{prompt}"},
        {"name": "ж", "prompt": "{prompt}, ж", "negative_prompt": None, "extra": 3},
    ]
    expected = [
        Style("sai-anime", "anime {prompt} . vivid", "photo"),
        Style("base", "{prompt}"),
        Style("ж", "{prompt}, ж"),
    ]
    for name in ("styles.json", "styles"):
        assert own(write(json.dumps(rows), name)) == expected
    assert own(write("\ufeff" + json.dumps(rows, ensure_ascii=False), "styles.json")) == expected


WEB_UI = (
    "\ufeffname,prompt,negative_prompt\r\n"
    "None,,\r\n"
    "\r\n"
    "-----Painting-----,,\r\n"
    '"Oil, thick","oil painting, ""impasto""\r\nby hand",photo,extra,columns\r\n'
    "Short,only a prompt\r\n"
    "Negative only,,ugly\r\n"
    "# comment,x,y\r\n"
    ",no name,\r\n"
    "   \r\n"
)


def test_the_web_uis_csv(write):
    assert own(write(WEB_UI)) == [
        Style("Oil, thick", 'oil painting, "impasto"\r\nby hand', "photo"),
        Style("Short", "only a prompt"),
        Style("Negative only", "", "ugly"),
    ]


def test_what_pythons_csv_module_writes(write, tmp_path):
    rows = [("a", 'x, "y" {prompt}', "n"), ("b", "two\nlines", "")]
    with (tmp_path / "s.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("name", "prompt", "negative_prompt"), *rows])
    assert own(tmp_path / "s.csv") == [Style(*row) for row in rows]


def test_the_first_versions_column(write):
    assert own(write("Name, text\na, oil\n")) == [Style("a", "oil")]


def test_official_names_stay_unless_the_file_has_them(write):
    path = write("name,prompt,negative_prompt\nfilm noir,mine,\n")
    names = [style.name for style in read_styles(path)]
    assert names[0] == "film noir" and len(names) == len(STYLES)
    assert "Film Noir" not in names and "Snow" in names


def test_the_last_of_equal_names_counts_and_is_reported(write, caplog):
    path = write("name,prompt,negative_prompt\na,one,\na,two,\nb,x,\n")
    assert own(path) == [Style("a", "two"), Style("b", "x")]
    assert caplog.messages == [f"{path} has 2 styles named 'a': the last one is used"]


BAD = {
    "not JSON": ("styles.json", "[{", "not valid JSON"),
    "deep JSON": ("styles.json", "[" * 100_000, "not valid JSON"),
    "an object": ("styles.json", "{}", "holds a dict: expected"),
    "a list of texts": ("styles.json", '["a"]', "entry 1 is not an object with a name"),
    "no name": ("styles.json", '[{"prompt": "x"}]', "entry 1 is not an object with a name"),
    "an empty name": ("styles.json", '[{"name": " ", "prompt": "x"}]', "entry 1 has no name"),
    "a list": ("styles.json", '[{"name": "x", "prompt": []}]', "entry 1: prompt holds a list"),
    "half a character": ("s.json", '[{"name": "\\ud800", "prompt": "x"}]', "half a character"),
    "nothing": ("styles.csv", "", "has no columns name and prompt"),
    "other columns": ("styles.csv", "a,b\n1,2\n", "has no columns name and prompt"),
    "no rows": ("styles.csv", "name,prompt,negative_prompt\n", "has no styles"),
    "no words": ("styles.json", '[{"name": "x"}]', "has no styles"),
    "a large field": ("styles.csv", "name,prompt\na," + "x" * 200_000, "line 1: field larger"),
    "not UTF-8": ("styles.csv", b"name,prompt\ncaf\xe9,x\n", r"is not UTF-8 \(byte 15\)"),
    "UTF-16": ("styles.csv", "name,prompt\na,b\n".encode("utf-16"), r"is not UTF-8 \(byte 0\)"),
    "too large": ("styles.csv", b"name,prompt\n" + b" " * text_files.LARGEST, "more than 16 MB"),
}


@pytest.mark.parametrize("case", BAD)
def test_hostile_files_are_one_line(write, case):
    name, contents, message = BAD[case]
    path = write(contents, name)
    with pytest.raises(InputError, match=message) as error:
        read_styles(path)
    assert str(error.value).startswith(str(path)) and len(str(error.value)) < 400


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_styles(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_styles(tmp_path)
