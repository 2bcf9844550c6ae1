"""The page in a real browser: the command, a drawn portrait, an image, its settings."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys

import httpx
import numpy as np
import pytest
from PIL import Image

from instantid_jax import embedded
from instantid_jax.request import Request
from instantid_jax.request.provenance import Provenance
from tests.serving.http.running import until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
COMPILING = 300_000  # milliseconds
BRUSH = (0xFF, 0x2D, 0x55)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page of the embedded miniature, served by the command.

    Not in the checkout: Gradio lets a page return files of the folder that it was started in.
    """
    run = "import sys; from instantid_jax.cli import main; main(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", run, "ui", "--port", "0", "--num-inference-steps", "4"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        cwd=tmp_path_factory.mktemp("elsewhere"),
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


def test_a_sample_portrait_becomes_the_photo(page):
    page.click("#samples button >> nth=1")
    page.wait_for_selector("#faces img")
    assert page.text_content("#photos .filename").strip().startswith("portrait-2")


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


def make(page) -> Image.Image:
    """Clicks the button, and returns the image that follows."""
    page.evaluate("document.querySelector('#status .line')?.remove()")
    page.click("#go")
    page.wait_for_selector("#status .done >> text=Done in", timeout=COMPILING)
    page.wait_for_selector("#results img")
    made = page.request.get(page.get_attribute("#results img", "src")).body()
    return Image.open(io.BytesIO(made))


def shown(canvas) -> np.ndarray:
    """The colors of a canvas, without its borders."""
    image = Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")
    width, height = image.size
    quarters = (width // 4, height // 4, width * 3 // 4, height * 3 // 4)
    return np.int16(image.crop(quarters))


def test_what_is_painted_over_changes_and_nothing_else(page):
    upload(page, "photos", embedded.PORTRAIT)
    page.wait_for_selector("#faces img")
    page.fill("#prompt textarea", "a portrait")
    page.get_by_role("button", name="Begin with an image").click()
    canvas = page.locator("#painted canvas").first
    canvas.scroll_into_view_if_needed()

    def begun() -> bool:
        # Gradio's editor loses an image that comes before it is set up.
        upload(page, "painted", embedded.PORTRAITS[1])
        page.wait_for_timeout(1000)
        return shown(canvas).std() > 20

    until(begun)

    def painted() -> bool:
        # The image is there before the brush is, and the page may still move.
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 10, y + 5, steps=4)
        page.mouse.up()
        page.wait_for_timeout(500)
        return bool((np.abs(shown(canvas) - BRUSH).max(-1) < 20).any())

    until(painted)
    page.get_by_label("what is painted over", exact=True).check()
    before = np.int16(Image.open(embedded.PORTRAITS[1]))
    changed = np.abs(np.int16(make(page).convert("RGB")) - before).mean(-1)
    assert changed[56:72, 56:72].mean() > 10
    for corner in (np.s_[:24, :24], np.s_[:24, -24:], np.s_[-24:, :24], np.s_[-24:, -24:]):
        assert changed[corner].mean() < 2


def test_a_preset_takes_its_lora_and_a_pose_its_photo(page, tmp_path):
    upload(page, "photos", embedded.PORTRAIT)
    page.wait_for_selector("#faces img")
    page.fill("#prompt textarea", "a portrait")
    page.click("#fast input")
    page.get_by_role("option", name="miniature-4").click()
    page.get_by_role("button", name="Pose").click()
    upload(page, "pose", embedded.PORTRAITS[2])
    page.wait_for_selector("#pose-view img")
    make(page)
    source = page.get_attribute("#results img", "src")
    (tmp_path / "whole.png").write_bytes(page.request.get(source).body())
    made = Provenance.read(tmp_path / "whole.png")
    assert made.request.pose is not None and made.request.guidance_scale == 1
    assert made.facts["weights"]["loras"] == ["miniature-4"]


def test_a_closed_tab_gives_its_place_up(address, page):
    """A request of 8 images fills all rows; another tab's starts when that one is gone."""
    context = page.context.browser.new_context()
    greedy = context.new_page()
    greedy.goto(address)
    for each in (greedy, page):
        each.wait_for_selector("#go")
        upload(each, "photos", embedded.PORTRAIT)
        each.wait_for_selector("#faces img")
        each.fill("#prompt textarea", "a portrait")
    greedy.fill("#images input[type=number]", "8")
    greedy.keyboard.press("Tab")
    greedy.get_by_role("button", name="More settings").click()
    greedy.fill("#more textarea", '{"num_inference_steps": 1000}')
    greedy.click("#go")
    greedy.wait_for_selector("#status >> text=/Step \\d+ of 8000/", timeout=COMPILING)
    page.click("#go")
    page.wait_for_timeout(5000)
    assert page.locator("#status >> text=Done in").count() == 0
    context.close()
    page.wait_for_selector("#status >> text=Done in", timeout=COMPILING)


def test_files_that_were_not_uploaded_are_not_read(address, tmp_path):
    """A mounted page of Gradio 6.31 would read any file whose name it is sent."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    with httpx.Client(base_url=address) as client:
        config = client.get("config").json()
        (event,) = (
            each["id"] for each in config["dependencies"] if each["api_name"] == "show_pose"
        )
        file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
        body = {"data": [file], "fn_index": event, "session_hash": "a"}
        assert client.post("gradio_api/queue/join", json=body).status_code == 200
        with client.stream("GET", "gradio_api/queue/data?session_hash=a", timeout=60) as stream:
            heard = ""
            for line in stream.iter_lines():
                heard += line
                if "process_completed" in line or "close_stream" in line:
                    break
        assert '"success":false' in heard.replace(" ", "")
        assert client.get(f"gradio_api/file={secret}").status_code in (403, 404)
