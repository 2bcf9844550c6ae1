"""Sizes, painted masks, progress and LoRAs of the page."""

import numpy as np
import pytest
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.serving.job import Job
from instantid_jax.serving.page.loras import LoraSwitch, Shelf
from instantid_jax.serving.page.painting import CHANGES, mask_of, read_painted
from instantid_jax.serving.page.progress import Progress, remarks_html, status_html
from instantid_jax.serving.page.sizes import parse_size, size_name, usual_sizes
from tests.pipeline.small_model import person
from tests.serving.asking import ask


@pytest.mark.parametrize("side", [128, 1024])
def test_usual_sizes_have_about_the_same_area(side):
    sizes = usual_sizes(side)
    assert sizes[0] == (side, side) and len(set(sizes)) == len(sizes)
    for height, width in sizes:
        assert height % 8 == width % 8 == 0
        assert 0.8 < height * width / side**2 < 1.25
        assert parse_size(size_name((height, width)), sizes, None) == (height, width)


def test_layers_of_an_editor_are_the_mask(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (32, 48, 3), np.uint8)
    layer = np.zeros((32, 48, 4), np.uint8)
    layer[4:20, 8:30] = 255
    files = {"background": pixels, "one": layer, "two": np.flip(layer)}
    for name, array in files.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    editor = {
        "background": str(tmp_path / "background.png"),
        "layers": [str(tmp_path / f"{name}.png") for name in ("one", "two")],
    }
    image, mask = read_painted(editor)
    np.testing.assert_array_equal(image, pixels)
    np.testing.assert_array_equal(mask, np.maximum(layer, np.flip(layer))[..., 3])
    everything, painted, others, _ = CHANGES
    assert mask_of(everything, mask, None) is None
    np.testing.assert_array_equal(mask_of(painted, mask, None), mask)
    np.testing.assert_array_equal(mask_of(others, mask, None), 255 - mask)


def test_the_face_is_a_mask():
    face = person(0, image_size=(64, 128), bbox=np.array([20, 20, 44, 50], np.float32))
    mask = mask_of(CHANGES[-1], np.zeros((64, 128), np.uint8), face)
    assert mask[30, 30] == 255 and mask[0, 127] == 0


def test_nothing_painted_is_refused():
    for change in CHANGES[1:3]:
        with pytest.raises(InputError, match="nothing is painted over"):
            mask_of(change, np.zeros((8, 8), np.uint8), None)


def test_progress_says_where_a_job_is():
    job, progress = Job(ask()), Progress()
    assert progress.describe(job, 2) == "Waiting: 2 requests before this one"
    assert progress.describe(job, 0) == "Preparing"
    job.submitted -= 10
    assert progress.describe(job, 0).startswith("Compiling for a new kind of image")
    assert progress.describe(job, 0, 1).startswith("Waiting for room next to images")
    progress.on_progress(3, 8)
    assert progress.describe(job, 0).startswith("Step 3 of 8")
    progress.on_progress(8, 8)
    assert progress.describe(job, 0) == "Decoding"
    progress.on_preview(0, np.zeros((4, 6, 3), np.uint8))
    ((image, caption),) = progress.previews()
    assert (image.size, caption) == ((48, 32), "preview 1")


def test_html_shows_text_as_it_is():
    for made in (status_html("<b>&"), remarks_html(["<b>&"])):
        assert "&lt;b&gt;&amp;" in made and "<b>" not in made


def test_requests_with_the_same_loras_run_together_and_others_in_turn():
    merged, busy = [], [True]
    switch = LoraSwitch(merged.append, lambda: not busy[0], ("a",))
    first, second, other, third = (switch.join(loras) for loras in (("a",), ("a",), (), ("a",)))
    assert switch.enter(first) and switch.enter(second) and switch.enter(first)
    # The third has the LoRAs that are merged, but came later.
    assert not switch.enter(other) and not switch.enter(third) and merged == []
    switch.leave(first)
    switch.leave(second)
    assert not switch.enter(other)
    busy[0] = False
    assert switch.enter(other) and merged == [()]
    switch.leave(third)
    switch.leave(other)
    assert switch.enter(switch.join(("a",))) and merged == [(), ("a",)]


def test_a_shelf_offers_given_loras_and_others():
    shelf = Shelf(["one.safetensors:0.5"], ["two"])
    assert shelf.sources == ["one.safetensors", "two"]
    assert shelf.initial == {"one.safetensors": 0.5, "two": 0.0}
    assert shelf.chosen(shelf.initial) == ("one.safetensors:0.5",)
    assert shelf.chosen({"two": 1.0}) == ("two",)
