"""What a call returns, shows while it works, and says when numbers break."""

import contextlib
import copy
import io

import numpy as np
import pytest
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.pipeline import programs, sampling
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
        sampling.check_finite(finite, [10, 20, 30, 40], "the latents")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_by(call, **arguments) -> str:
    """What a call writes to a terminal."""
    with contextlib.redirect_stderr(Terminal()) as screen:
        call(**arguments)
    return screen.getvalue()


def test_progress_tells_compiling_sampling_and_decoding(pipe, sample):
    fresh = copy.copy(pipe)
    fresh._compiled = set()
    first = shown_by(sample, pipe=fresh, output_type="pil")
    assert first.index("compiling") < first.index("sampling") < first.rindex("compiling")
    assert "3/3" in first and "preparing" not in first
    second = shown_by(sample, pipe=fresh, output_type="pil")
    assert second.index("preparing") < second.index("sampling") < second.index("decoding")
    assert "3/3" in second and "compiling" not in second


def test_progress_is_silent_when_not_wanted(sample):
    assert shown_by(sample, progress=False, output_type="pil") == ""


def test_progress_is_silent_without_a_terminal(sample, capfd):
    sample(output_type="pil")
    assert capfd.readouterr() == ("", "")


class Recorder:
    """In the place of a progress bar and of the compiled step: writes down what came when."""

    def __init__(self, denoise):
        self.events: list[str] = []
        self.denoise = denoise

    def step(self, *arguments):
        self.events.append("start")
        return self.denoise(*arguments)

    def update(self) -> None:
        self.events.append("ready")

    def unpause(self) -> None: ...

    def set_description(self, text: str) -> None:
        self.events.append(text)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None: ...


def test_two_steps_are_in_flight_and_the_bar_moves_with_the_one_before(sample, monkeypatch):
    recorder = Recorder(programs.denoise)
    monkeypatch.setattr(programs, "denoise", recorder.step)
    monkeypatch.setattr("instantid_jax.pipeline.pipeline.tqdm", lambda **_: recorder)
    sample(num_inference_steps=5)
    steps = [event for event in recorder.events if event in ("start", "ready")]
    assert steps == ["start"] * 2 + ["start", "ready"] * 3 + ["ready"] * 2
    assert recorder.events.index("sampling") == recorder.events.index("start") + 1
