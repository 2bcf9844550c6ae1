"""Results, progress, observers, and errors when numbers are not finite."""

import contextlib
import copy
import io

import numpy as np
import pytest
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.pipeline import stages, step
from instantid_jax.pipeline.observer import Canceled, Observer
from tests.pipeline.small_model import SIZE


def test_pictures_come_as_pillow_images_arrays_or_latents(sample):
    pil, floats, latents = (sample(output_type=kind) for kind in ("pil", "np", "latent"))
    assert latents.images is None
    assert floats.images.shape == (1, *SIZE, 3) and floats.images.dtype == np.float32
    assert 0 <= floats.images.min() < floats.images.max() <= 1
    (picture,) = pil.images
    assert isinstance(picture, Image.Image) and picture.size == SIZE[::-1]
    np.testing.assert_allclose(np.asarray(picture) / 255, floats.images[0], atol=0.502 / 255)
    for result in (pil, floats):
        np.testing.assert_array_equal(result.latents, latents.latents)
    assert latents.latents.shape == (1, SIZE[0] // 8, SIZE[1] // 8, 4)
    assert latents.latents.dtype == np.float32 and latents.seeds == [0]


@pytest.fixture
def poisoned(pipe):
    """Puts a NaN into a parameter of a copy."""

    def poison(component: str, name: str):
        broken, broken.model = copy.copy(pipe), copy.copy(pipe.model)
        params = pipe.model.params
        value = np.array(params[component][name])
        value.flat[0] = np.nan
        broken.model.params = params | {component: params[component] | {name: value}}
        return broken

    return poison


def test_latents_that_are_not_finite_end_the_call(sample, poisoned):
    message = "the latents after step 1 of seed 9 are not finite: .*try dtype float32"
    with pytest.raises(InputError, match=message):
        sample(pipe=poisoned("unet", "conv_out.bias"), seed=9, output_type="pil")


def test_pixels_that_are_not_finite_end_the_call(sample, poisoned):
    broken = poisoned("vae", "decoder.conv_out.bias")
    assert np.isfinite(sample(pipe=broken).latents).all()
    with pytest.raises(InputError, match="the decoded pixels of seed 9 are not finite"):
        sample(pipe=broken, seed=9, output_type="pil")


def test_the_picture_that_is_not_finite_is_named():
    finite = np.array([True, True, False, False])
    with pytest.raises(InputError, match="of seed 30 "):
        stages.check_finite(finite, [10, 20, 30, 40], "the latents")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_by(call, **arguments) -> str:
    """Returns what a call writes to a terminal."""
    with contextlib.redirect_stderr(Terminal()) as screen:
        call(**arguments)
    return screen.getvalue()


def test_progress_reports_compiling_sampling_and_decoding(sample):
    # A size of its own, so that its programs are new.
    asked = {"height": 96, "width": 176, "output_type": "pil"}
    first = shown_by(sample, **asked)
    assert first.index("compiling") < first.index("sampling") < first.rindex("compiling")
    assert "3/3" in first
    second = shown_by(sample, **asked)
    assert second.index("encoding") < second.index("sampling") < second.index("decoding")
    assert "3/3" in second and "compiling" not in second


def test_progress_is_silent_when_not_wanted(sample):
    assert shown_by(sample, progress=False, output_type="pil") == ""


def test_progress_is_silent_without_a_terminal(sample, capfd):
    sample(output_type="pil")
    assert capfd.readouterr() == ("", "")


class Recorder(Observer):
    """Writes down what came when."""

    def __init__(self, denoise=None):
        self.events: list = []
        self.denoise = denoise

    def step(self, *arguments):
        self.events.append("start")
        return self.denoise(*arguments)

    def on_stage(self, stage):
        self.events.append(stage)

    def on_compile(self, program):
        self.events.append(f"compile {program}")

    def on_progress(self, done, total):
        self.events.append("ready")


def test_two_steps_are_in_flight_and_progress_comes_with_the_one_before(sample, monkeypatch):
    recorder = Recorder(step.denoise)
    monkeypatch.setattr(step, "denoise", recorder.step)
    sample(num_inference_steps=5, observer=recorder)
    steps = [event for event in recorder.events if event in ("start", "ready")]
    assert steps == ["start"] * 2 + ["start", "ready"] * 3 + ["ready"] * 2
    assert recorder.events.index("sample") < recorder.events.index("start")


def test_an_observer_hears_of_stages_and_of_each_programs_compilation(sample):
    # No other test of this process may have compiled its programs: it makes images of its own size.
    asked = {"height": 88, "width": 152, "output_type": "pil", "observer": Recorder()}
    sample(**asked)
    stages_heard = [e for e in asked["observer"].events if e in ("encode", "sample", "decode")]
    assert stages_heard == ["encode", "sample", "decode"]
    compiled = [e for e in asked["observer"].events if e.startswith("compile ")]
    assert {"compile prepare", "compile denoise", "compile decode"} <= set(compiled)
    assert len(compiled) == len(set(compiled))
    again = asked | {"observer": Recorder()}
    sample(**again)
    assert not [e for e in again["observer"].events if e.startswith("compile ")]


class Steps(Observer):
    def __init__(self, at_step):
        self.at_step = at_step

    def on_step(self, step):
        return self.at_step(step)


def test_an_observer_sees_latents_and_previews(sample):
    seen = []
    result = sample(
        num_images_per_prompt=2,
        observer=Steps(lambda step: seen.append((step.index, step.latents, step.preview()))),
    )
    assert [index for index, *_ in seen] == [0, 1, 2]
    np.testing.assert_array_equal(seen[-1][1], result.latents)
    preview = seen[-1][2]
    assert preview.shape == (2, SIZE[0] // 8, SIZE[1] // 8, 3) and preview.dtype == np.uint8
    assert preview.std() > 0


def test_an_observer_replaces_latents(sample):
    noise = sample(num_inference_steps=1).latents

    def last(step):
        return noise if step.index + 1 == step.total else None

    np.testing.assert_array_equal(sample(observer=Steps(last)).latents, noise)
    with pytest.raises(InputError, match=r"replaced latents have shape \[2\]: expected \[1, 8"):
        sample(observer=Steps(lambda step: np.ones(2)))


def test_an_observer_cancels(sample):
    seen = []

    def cancel(step):
        seen.append(step.index)
        if step.index == 1:
            raise Canceled

    with pytest.raises(Canceled):
        sample(num_inference_steps=5, observer=Steps(cancel))
    assert seen == [0, 1]
    assert np.isfinite(sample().latents).all()


def test_diffusers_callback_gets_and_gives_latents(pipe, sample):
    calls = []

    def keep(given_pipe, index, timestep, given):
        calls.append((given_pipe is pipe, index, timestep, given["latents"].shape))
        return given

    result = sample(callback_on_step_end=keep, callback_on_step_end_tensor_inputs=["latents"])
    np.testing.assert_array_equal(result.latents, sample().latents)
    assert [call[:2] for call in calls] == [(True, 0), (True, 1), (True, 2)]
    assert calls[0][2] > calls[1][2] > calls[2][2] and calls[0][3] == result.latents.shape
    zeros = sample(callback_on_step_end=lambda *_: {"latents": np.zeros_like(result.latents)})
    assert not zeros.latents.any()

    def clear(_pipe, _index, _timestep, given):
        given["latents"][:] = 0
        return given

    assert not sample(callback_on_step_end=clear).latents.any()
    with pytest.raises(InputError, match="only latents can be passed"):
        sample(callback_on_step_end=keep, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    with pytest.raises(InputError, match="callback_on_step_end returned a int"):
        sample(callback_on_step_end=lambda *_: 1)
