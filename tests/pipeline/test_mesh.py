"""Sampling on several devices: the picture of a seed is the same on any mesh, to rounding."""

import jax
import numpy as np
import pytest

from benchmarks.hlo_collectives import collectives
from instantid_jax import InputError, InstantIDPipeline
from instantid_jax.pipeline import step
from instantid_jax.sharding import sampling_mesh, training_mesh
from tests.pipeline.small_model import person

# float32 rounding after three steps.
TOLERANCE = 1e-5
FOUR = {"prompt": ["a man", "snow", "mars", ""], "face": [person(i) for i in range(4)]}


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.fixture(scope="module")
def on(folder):
    """The small model on a mesh of these sizes."""

    def load(*shape: int) -> InstantIDPipeline:
        mesh = sampling_mesh(*shape)
        return InstantIDPipeline.load(sdxl=folder, instantid=folder, mesh=mesh)

    return load


@pytest.fixture(scope="module")
def alone(sample):
    return sample(output_type="np", seed=[4, 3, 2, 1], **FOUR)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((4, 1, 1), marks=pytest.mark.slow, id="data"),
        pytest.param((1, 2, 1), marks=pytest.mark.slow, id="guidance"),
        pytest.param((1, 1, 2), marks=pytest.mark.slow, id="rows"),
        pytest.param((2, 2, 2), id="all"),
    ],
)
def test_pictures_are_those_of_one_device(sample, on, alone, shape):
    ours = sample(pipe=on(*shape), output_type="np", seed=[4, 3, 2, 1], **FOUR)
    assert ours.seeds == alone.seeds
    assert error(ours.latents, alone.latents) < TOLERANCE
    # In their order.
    np.testing.assert_allclose(ours.images, alone.images, atol=1e-4)
    assert error(ours.latents[::-1], alone.latents) > 0.1


@pytest.mark.slow
def test_noise_of_every_step_is_that_of_one_device(sample, on):
    asked = {"scheduler": "euler_ancestral", "num_images_per_prompt": 2}
    ours, alone = sample(pipe=on(2, 1, 2), **asked), sample(**asked)
    assert error(ours.latents, alone.latents) < TOLERANCE


@pytest.mark.slow
def test_without_guidance_and_with_given_latents(sample, on):
    latents = np.random.default_rng(0).standard_normal((2, 8, 16, 4), np.float32)
    asked = {"guidance_scale": 1, "num_images_per_prompt": 2, "latents": latents}
    assert error(sample(pipe=on(2, 1, 1), **asked).latents, sample(**asked).latents) < TOLERANCE


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((4, 1, 1), id="data"),
        pytest.param((1, 2, 1), marks=pytest.mark.slow, id="guidance"),
    ],
)
def test_devices_exchange_latents_and_nothing_larger(sample, on, monkeypatch, shape):
    """The halves of guidance meet in the prediction; all of it is less than one full-size map."""
    calls = []
    denoise = step.denoise
    monkeypatch.setattr(
        step, "denoise", lambda *args: calls.append(denoise.lower(*args)) or denoise(*args)
    )
    sample(pipe=on(*shape), num_inference_steps=1, **FOUR)
    with jax.set_mesh(sampling_mesh(*shape)):
        moved = collectives(calls[0].compile().as_text())
    latents = 4 * 8 * 16 * 4 * 4  # pictures, height, width, channels, bytes
    assert 0 < sum(each["bytes"] for each in moved.values()) <= 4 * latents, moved


def test_what_cannot_be_shared_out_is_told(sample, on):
    with pytest.raises(InputError, match="1 images on a mesh of data=2: expected a multiple"):
        sample(pipe=on(2, 1, 1))
    with pytest.raises(InputError, match="mesh of guidance=2 no second half"):
        sample(pipe=on(1, 2, 1), guidance_scale=1)
    with pytest.raises(InputError, match="height 64 on a mesh of rows=8: expected a multiple of 1"):
        sample(pipe=on(1, 1, 8))


def test_a_mesh_of_training_is_refused(folder):
    with pytest.raises(InputError, match="axes data, fsdp, tensor: expected one of"):
        InstantIDPipeline.load(sdxl=folder, instantid=folder, mesh=training_mesh((8, 1, 1)))
