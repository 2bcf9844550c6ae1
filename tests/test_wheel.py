"""The wheel: installed without a checkout, the library, the command and the demo work."""

import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
# What the wheel is built from, where the tests run from a checkout.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "instantid_jax")
pytestmark = pytest.mark.slow


def pip(*arguments):
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    # Links: setuptools writes into the folder that it builds from.
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        (source / name).symlink_to(ROOT / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    pip("install", "--no-deps", "--target", folder / "site", wheel)
    return folder / "site"


def run(site, cwd, *arguments):
    """Runs the command of the installed wheel, and returns what it prints."""
    command = (
        "import instantid_jax, sys; from instantid_jax.cli import main; "
        "print(instantid_jax.__file__); main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", command, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(site), "HOME": str(cwd)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    file, *lines = ran.stdout.splitlines()
    assert Path(file).parent == site / "instantid_jax"
    return lines


def test_metadata_say_what_it_is(site):
    (found,) = distributions(name="instantid-jax", path=[str(site)])
    metadata = found.metadata
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "InstantID" in metadata["Keywords"] and metadata.get_all("Project-URL")
    assert "Programming Language :: Python :: 3.11" in metadata.get_all("Classifier")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert {entry.name for entry in found.entry_points} == {"instantid"}
    assert {file.parts[0] for file in found.files} <= {
        "instantid_jax",
        f"instantid_jax-{metadata['Version']}.dist-info",
        "..",  # the command, in bin/
    }


def test_the_demo_runs_in_an_empty_folder(site, tmp_path):
    lines = run(site, tmp_path, "demo", "--output", "out/demo.png")
    assert len(lines) == 6 and lines[0].startswith("out/demo.png: ")
    with Image.open(tmp_path / "out" / "demo.png") as sheet:
        assert sheet.width > sheet.height > 200
