"""File names and terminals that are not UTF-8: nothing that was computed is lost to them."""

import pytest

from instantid_jax.request.provenance import Provenance
from tests.cli.test_main import process

# As the command line gives a Latin-1 name.
NAME = "caf\udce9"


@pytest.fixture
def latin_file(face_file):
    return face_file.rename(face_file.with_name(f"{NAME}.npz"))


def test_a_name_in_another_encoding_is_written_and_recorded(run, recorder, latin_file):
    ran = run("generate", "--face", latin_file, "--prompt", "x", "--output", f"{NAME}/{NAME}.png")
    assert (ran.status, ran.out) == (0, [r"caf\udce9/caf\udce9.png"])
    output = latin_file.parent / NAME / f"{NAME}.png"
    assert Provenance.read(output).facts["face_files"] == [str(latin_file)]


def test_a_sheet_with_such_a_photo_is_written(run, recorder, photo, pack, tmp_path):
    first = photo(f"{NAME}.png", (32, 32, 64, 1))
    weights = ("--sdxl", tmp_path, "--instantid", tmp_path, "--face-pack", pack)
    ran = run("demo", "--face", first, "--prompts", "x", "--output", "o.png", *weights)
    assert (ran.status, ran.log) == (0, [])
    assert (tmp_path / "o.png").is_file()


def test_half_a_character_in_a_prompt_is_refused(run, recorder, face_file):
    ran = run("generate", "--face", face_file, "--prompt", f"a {NAME}", "--output", "o.png")
    assert ran.status == 2 and not recorder.requests
    expected = r"instantid: error: prompt has half a character at position 5, '\udce9': expected"
    assert ran.err == [f"{expected} text in UTF-8"]


def test_a_terminal_that_is_not_utf8_gets_escapes(photo, pack, tmp_path):
    photo("photos/größe.png", (8, 8, 48, 1))
    photo(f"photos/{NAME}.png", (8, 8, 48, 2))
    output = tmp_path / "Füße"
    ran = process(
        ["embed", str(tmp_path / "photos"), "--output", str(output), "--face-pack", str(pack)],
        PYTHONIOENCODING="ascii",
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("2 of 2 photos written to " + rf"{tmp_path}/F\xfc\xdfe" + "\n")
    assert sorted(path.name for path in output.iterdir()) == [f"{NAME}.npz", "größe.npz"]


def test_numbered_outputs_are_checked_first(run, recorder, face_file, tmp_path):
    (tmp_path / "o-2.png").mkdir()
    arguments = ("--prompt", "x", "--output", "o.png", "--num-images-per-prompt", 2)
    ran = run("generate", "--face", face_file, *arguments)
    assert ran.status == 2 and "o-2.png is a folder" in ran.err[-1] and not recorder.requests


def test_the_home_folder_may_be_abbreviated(run, recorder, face_file, tmp_path):
    ran = run("generate", "--face", face_file, "--prompt", "x", "--output=~/o.png")
    assert ran.status == 0 and (tmp_path / "home" / "o.png").is_file()


def test_weights_are_named_before_a_face_pack_is_looked_for(run, photo):
    weights = ("--sdxl", "nowhere", "--instantid", "neither")
    face = photo("me.png", (32, 32, 64, 1))
    ran = run("generate", "--face", face, "--prompt", "x", "--output", "o.png", *weights)
    assert ran.status == 2 and ran.err == [
        "instantid: error: nowhere: no such folder here, and not a hub id (owner/name or "
        "owner/name@revision); pass either"
    ]
