"""The lint of prose finds banned patterns, and accepts plain English."""

import pytest

from tests import english

BAD = {
    "normalised by the recogniser": ["normalised", "recogniser"],
    "colours = grey": ["colours", "grey"],
    "analysed, centred and cancelled": ["analysed", "centred", "cancelled"],
    "what the user is told": ["told"],
    "steps=0: expected 1 up": ["1 up"],
    "height=100 is no multiple of 8": ["is no multiple"],
    "keys and values are given ready": ["given ready"],
    "beside the networks": ["beside"],
    "the run goes on from step 3": ["goes on"],
    "zeros in place of copies": ["in place of"],
    "kept for the way back": ["the way back"],
    "145 images a second": ["images a second"],
    "arrays, of which each device has a part": [", of which"],
    "      seed: of the noise.": ["seed: of the"],
    "    # Of several faces the largest is taken.": ["# Of several"],
    '    """What the compiler expects."""': ['"""What'],
}
GOOD = (
    "there is no such file, and it is no longer needed",
    "expected 1 or more, up to 8",
    "the analyses of four favorite colors",
    "normalize, optimizer, gray, center, license",
    "several of the images, each of which has a face",
    "the precision of the advise: raise or revise",
    'path = folder / "recogniser.onnx"',
)


@pytest.mark.parametrize("line", BAD)
def test_finds_banned_patterns(line):
    assert [match for match, _ in english.check(line)] == BAD[line]


@pytest.mark.parametrize("line", GOOD)
def test_accepts_plain_english(line):
    assert not list(english.check(line))


def test_prints_findings_with_their_line(tmp_path, capsys):
    (tmp_path / "a.py").write_text("x = 1\n# The optimiser.\n")
    (tmp_path / "b.json").write_text('{"colour": 1}')
    assert english.main([str(tmp_path)]) == 1
    expected = f"{tmp_path}/a.py:2: optimiser: American spelling: -ize\n"
    assert capsys.readouterr().out == expected


def test_clean_and_missing_paths(tmp_path, capsys):
    (tmp_path / "a.md").write_text("The optimizer.\n")
    assert english.main([str(tmp_path)]) == 0
    assert english.main([str(tmp_path / "missing")]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_covered_paths_exist():
    assert all((english.ROOT / folder).exists() for folder in english.FOLDERS)
