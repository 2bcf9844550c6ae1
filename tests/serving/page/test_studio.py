"""The studio: from the form to files, and what ends a request before."""

import threading

import numpy as np
import pytest
from PIL import Image

from instantid_jax import InputError, embedded
from instantid_jax.request import Request
from instantid_jax.request.provenance import Provenance
from instantid_jax.serving.job import QueueFullError
from instantid_jax.serving.page.form import preset_values
from instantid_jax.serving.page.painting import CHANGES
from instantid_jax.serving.page.people import Person
from tests.serving.page.conftest import PHOTOS


def run(studio, values, person, **more):
    return list(studio.generate("tab", values, person, **more))


@pytest.fixture
def painted(tmp_path):
    """A portrait with a painted square, as the editor gives it."""
    layer = np.zeros((128, 128, 4), np.uint8)
    layer[40:80, 40:80] = 255
    Image.fromarray(layer).save(tmp_path / "layer.png")
    return {"background": PHOTOS[1], "layers": [str(tmp_path / "layer.png")], "composite": None}


def test_images_are_files_that_record_the_form(studio, engine, person, values, tmp_path):
    object.__setattr__(studio, "output", tmp_path / "kept")
    values |= {"images": 2, "style": "Neon", "steps": 9}
    *running, last = run(studio, values, person)
    assert running and all(update.running for update in running)
    assert "Done in" in last.status and not last.running and last.seed == 7
    files = [file for file, _ in last.images]
    assert [caption.split(" · ")[0] for _, caption in last.images] == ["seed 7", "seed 8"]
    assert all("likeness" in caption for _, caption in last.images)
    again = Request.from_image(files[1])
    assert (again.seed, again.num_inference_steps) == (8, 9)
    np.testing.assert_array_equal(again.face.embedding, person.face.embedding)
    facts = Provenance.read(files[0]).facts
    assert facts["style"]["prompt"] == "a person in the rain"
    assert facts["face_files"] == ["portrait.png"]
    assert len(list((tmp_path / "kept").glob("*.png"))) == 2
    assert not studio._running


def test_a_random_seed_is_drawn_and_shown(studio, engine, person, values):
    seeds = {run(studio, values | {"random_seed": True}, person)[-1].seed for _ in range(3)}
    assert len(seeds) == 3 and seeds == {request.seed for request in engine.requests}


def test_previews_are_shown_until_it_is_stopped(studio, engine, person, values):
    engine.hold = threading.Event()
    updates = studio.generate("tab", values, person)
    for update in updates:
        if update.images:
            break
    assert update.images[0][1] == "preview 1" and "Step 1 of 30" in update.status
    studio.stop("another tab")
    assert not engine.jobs[0].done
    studio.stop("tab")
    last = list(updates)[-1]
    assert "Stopped" in last.status and not last.running and engine.jobs[0].done
    engine.hold.set()


def test_a_tab_that_asks_no_more_ends_its_request(studio, engine, person, values):
    engine.hold = threading.Event()
    updates = studio.generate("tab", values, person)
    while not engine.jobs:
        next(updates)
    updates.close()
    assert engine.jobs[0].done and not studio._running
    # The weights are free for others.
    assert studio.switch.enter(studio.switch.join(("other",)))
    engine.hold.set()


def test_another_request_of_a_tab_replaces_the_first(studio, engine, person, values):
    engine.hold = threading.Event()
    first = studio.generate("tab", values, person)
    while not engine.jobs:
        next(first)
    second = studio.generate("tab", values, person)
    next(second)
    assert engine.jobs[0].done
    assert "Stopped" in list(first)[-1].status
    engine.hold.set()
    assert "Done in" in list(second)[-1].status


def test_loras_are_merged_for_a_preset_and_the_preset_is_checked(
    studio, engine, person, values, merged
):
    values |= {"fast": "miniature-4", **preset_values("miniature-4", studio.choices, studio.usual)}
    last = run(studio, values, person)[-1]
    assert "without its LoRA" in last.status and not engine.requests
    engine.pipe.sources = type(engine.pipe.sources)(loras=["miniature-4"])
    run(studio, values, person, strengths={"miniature-4": 1.0})
    assert merged == [("miniature-4",)] and engine.requests[0].scheduler == "euler_trailing"


def test_poses_images_and_masks_become_parts_of_the_request(studio, person, values, painted):
    request = studio.request_of(values, person, pose=PHOTOS[2])
    assert request.image is None and not np.allclose(request.pose.kps, person.face.kps)
    everything, painted_over, others, the_face = CHANGES
    request = studio.request_of(values | {"change": everything}, person, painted=painted)
    assert request.image.shape == (128, 128, 3) and request.mask_image is None
    assert request.strength == 0.8
    mask = studio.request_of(values | {"change": painted_over}, person, painted=painted).mask_image
    assert mask[60, 60] == 255 and mask[0, 0] == 0
    rest = studio.request_of(values | {"change": others}, person, painted=painted).mask_image
    np.testing.assert_array_equal(rest, 255 - mask)
    face = studio.request_of(values | {"change": the_face}, person, painted=painted).mask_image
    assert 0.1 < (face > 0).mean() < 0.9


def test_parts_are_not_changed_without_an_image(studio, person, values):
    for change in CHANGES[1:]:
        with pytest.raises(InputError, match="needs an image to begin with: upload one"):
            studio.request_of(values | {"change": change}, person)


def test_bad_input_and_full_queues_are_one_line(studio, engine, person, values):
    cases = {
        "no face: upload one photo": (values, Person()),
        "the prompt is empty": (values | {"prompt": ""}, person),
        "9 images: expected 8 at most": (values | {"images": 9}, person),
    }
    for message, given in cases.items():
        last = run(studio, *given)[-1]
        assert message in last.status and 'role="alert"' in last.status and not last.running
    assert not engine.requests
    engine.error = QueueFullError(64, 3.0)
    assert "64 requests are waiting" in run(studio, values, person)[-1].status


def test_other_failures_are_shown_and_raised(studio, engine, person, values):
    engine.error = RuntimeError("the device\nis gone")
    seen = []
    with pytest.raises(RuntimeError):
        seen.extend(studio.generate("tab", values, person))
    engine.error = None
    assert "Done in" in run(studio, values, person)[-1].status


def test_the_miniature_refuses_photographs_as_a_pose(studio, person, values, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    with pytest.raises(InputError, match=r"no face found in black\.png"):
        studio.request_of(values, person, pose=str(tmp_path / "black.png"))


def test_presets_are_those_of_the_weights(studio):
    assert studio.embedded and studio.presets == list(embedded.LORAS)
