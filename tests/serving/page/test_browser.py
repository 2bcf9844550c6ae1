"""The page in a real browser: the command, a drawn portrait, an image, its settings."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image

from instantid_jax import embedded
from instantid_jax.request import Request

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
COMPILING = 300_000  # milliseconds


@pytest.fixture(scope="module")
def address():
    """The page of the embedded miniature, served by the command."""
    run = "import sys; from instantid_jax.cli import main; main(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", run, "ui", "--port", "0", "--num-inference-steps", "4"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    ) as process:
        line = process.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", line), line
        yield line.strip()
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM


@pytest.fixture
def page(address):
    """A tab that asks nobody else and reports no error."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        outside, errors = [], []
        page.on("request", lambda each: outside.append(each.url))
        page.on("console", lambda each: errors.append(each.text) if each.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("#go")
        yield page
        browser.close()
    local = (address, "data:", "blob:")
    assert [url for url in outside if not url.startswith(local)] == []
    assert errors == []


def upload(page, name: str, path) -> None:
    page.set_input_files(f"#{name} input[type=file]", str(path))


def test_an_image_is_made_and_its_settings_are_read_back(page, tmp_path):
    upload(page, "photos", embedded.PORTRAIT)
    page.wait_for_selector("#faces img")
    page.fill("#prompt textarea", "a watercolor portrait")
    page.click("#go")
    page.wait_for_selector("#status >> text=Done in", timeout=COMPILING)
    page.wait_for_selector("#results img")
    source = page.get_attribute("#results img", "src")
    made = page.request.get(source).body()
    file = tmp_path / "made.png"
    file.write_bytes(made)
    request = Request.from_image(file)
    assert (request.prompt, request.num_inference_steps) == ("a watercolor portrait", 4)
    with Image.open(file) as image:
        assert image.size == (request.width, request.height)

    page.reload()
    page.wait_for_selector("#go")
    with page.expect_file_chooser() as chooser:
        page.click("#settings-file")
    chooser.value.set_files(str(file))
    page.wait_for_selector("#status >> text=Settings loaded")
    assert page.input_value("#prompt textarea") == "a watercolor portrait"
    page.wait_for_selector("#faces img")


def test_without_a_face_it_says_what_to_do(page):
    page.fill("#prompt textarea", "a portrait")
    page.click("#go")
    page.wait_for_selector("#status >> text=no face: upload one photo")


def test_a_request_is_stopped(page):
    upload(page, "photos", embedded.PORTRAIT)
    page.wait_for_selector("#faces img")
    page.fill("#prompt textarea", "a pixel art portrait")
    page.fill("#steps input[type=number]", "900")
    page.click("#go")
    page.wait_for_selector("#stop:not([disabled])")
    page.click("#stop")
    page.wait_for_selector("#status >> text=Stopped", timeout=COMPILING)
