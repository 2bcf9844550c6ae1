"""Addresses of remote storage, given as paths: refused before anything else."""

from pathlib import Path

import pytest

from convert.__main__ import main as convert
from instantid_jax import Face, InstantIDPipeline, cli
from instantid_jax.atomic import new_folder, replacing_file
from instantid_jax.checkpoint import open_model
from instantid_jax.errors import InputError
from instantid_jax.face.packs import find_pack
from instantid_jax.image_files import save_image
from instantid_jax.images import find_images, read_image
from instantid_jax.paths import is_address, local_path
from instantid_jax.request import Request
from instantid_jax.runs.trained import open_trained
from train.__main__ import main as train
from train.data.build import main as build
from train.data.latents import main as latents
from train.data.reading import FaceDataset
from train.prepare.__main__ import main as prepare

ROOT = Path(__file__).parents[1]
ADDRESSES = ("gs://bucket/a.png", "s3://bucket/run", "hf://owner/name", "https://example.com/a.jpg")


@pytest.mark.parametrize("address", [*ADDRESSES, "file:///tmp/a.png", "data:image/png;base64,iVB"])
@pytest.mark.parametrize(
    "use",
    [
        local_path,
        read_image,
        find_images,
        Face.load,
        Request.from_image,
        find_pack,
        lambda path: save_image(read_image(ROOT / "docs" / "demo.png"), path),
        lambda path: replacing_file(path).__enter__(),
        lambda path: new_folder(path).__enter__(),
        # What Path() makes of it.
        lambda path: local_path(Path(path)),
    ],
)
def test_no_address_becomes_a_folder(tmp_path, monkeypatch, use, address):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is an address: give a path on this machine"):
        use(address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", [*ADDRESSES[2:], "file:///tmp/a.png", "s3:/bucket/a"])
def test_datasets_are_read_from_object_stores_alone(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is an address: give a path on this machine"):
        FaceDataset(address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["a:b.png", "C:/photos/a.png", "a/b:/c.png", "gs:"])
def test_other_names_are_paths(path):
    assert local_path(path) == Path(path)


def test_object_stores_are_told_from_paths():
    assert is_address("s3://bucket/x") and is_address("gs://b")
    assert not any(map(is_address, ("data/faces", "/x//y", "C:/x", "hf://a/b", "s3:/x")))


def test_a_long_address_is_cut():
    with pytest.raises(InputError) as error:
        read_image("data:image/png;base64," + "A" * 10**6)
    assert len(str(error.value)) < 300


PROGRAMS = {
    "generate": (cli.main, "generate --face a.npz --prompt x --output {}"),
    "generate like": (cli.main, "generate --like {} --output a.png"),
    "generate face": (cli.main, "generate --face {} --prompt x --output a.png"),
    "demo": (cli.main, "demo --output {}"),
    "embed": (cli.main, "embed photos --output {}"),
    "embed photos": (cli.main, "embed {} --output faces"),
    "embed pack": (cli.main, "embed photos --output faces --face-pack {}"),
    "inspect": (convert, "inspect {}"),
    "to-jax": (convert, "to-jax --sdxl sdxl --instantid instantid --output {}"),
    "to-torch": (convert, "to-torch run --output {}"),
    "to-torch run": (convert, "to-torch {} --output out"),
    "train state": (train, f"{ROOT}/configs/instantid_sdxl.py --workdir run --state {{}}"),
    "prepare input": (prepare, "--input {} --output out"),
    "build input": (build, "--input {} --output out"),
    "latents": (latents, "{} --sdxl sdxl"),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("address", ADDRESSES[:2])
def test_every_program_refuses_addresses(tmp_path, monkeypatch, capfd, program, address):
    (tmp_path / "photos").mkdir()
    save_image(read_image(ROOT / "docs" / "demo.png"), tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    main, line = PROGRAMS[program]
    with pytest.raises(SystemExit) as ended:
        main(line.format(address).split())
    _, err = capfd.readouterr()
    assert ended.value.code == 2
    (last,) = err.splitlines()
    assert f"error: {address} is an address: give a path on this machine" in last
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("name", ["\0", "a\0b.png", "\ud800"])
def test_impossible_names_get_one_line(name):
    with pytest.raises(InputError, match="no file can have this name"):
        local_path(name)


def load(folder):
    return InstantIDPipeline.load(str(folder), str(folder))


@pytest.mark.parametrize("use", [find_pack, FaceDataset, open_model, open_trained, load])
def test_libraries_that_take_utf8_get_nothing_else(tmp_path, use):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    with pytest.raises(InputError, match="is not UTF-8: rename the file or folder"):
        use(folder)


def test_a_leading_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert local_path("~/a.png") == Path("/home/ann/a.png")
    assert local_path("~") == Path("/home/ann")
    assert local_path("~a.png") == Path("~a.png")


@pytest.mark.parametrize("value", ["", None, 5, b"a.png"])
def test_what_is_no_path_gets_one_line(value):
    with pytest.raises(InputError, match="path"):
        local_path(value)
