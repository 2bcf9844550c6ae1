"""ControlNets after IdentityNet: switched on and off by their images."""

from pathlib import Path

import numpy as np
import pytest

from instantid_jax import InputError, InstantIDPipeline
from tests.pipeline.small_model import SIZE
from tests.pipeline.test_compilation import compiled_by

__all__ = ["compiled_by"]

IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def pipe_of_two(folder) -> InstantIDPipeline:
    networks = [str(Path(folder) / "ControlNetModel")]
    return InstantIDPipeline.load(sdxl=folder, instantid=folder, controlnets=networks)


@pytest.fixture(scope="module")
def of_two(sample, pipe_of_two):
    """The latents of a call with a ControlNet after IdentityNet."""

    def call(**arguments) -> np.ndarray:
        return sample(pipe=pipe_of_two, **arguments).latents

    return call


def test_without_an_image_a_controlnet_is_off(of_two):
    off = of_two(control_images=[IMAGE], controlnet_conditioning_scale=[0.8, 0])
    np.testing.assert_array_equal(of_two(control_images=[None]), off)
    np.testing.assert_array_equal(of_two(), off)
    np.testing.assert_array_equal(of_two(controlnet_conditioning_scale=[0.8, 0.5]), off)
    assert np.linalg.norm(of_two(control_images=[IMAGE]) - off) > 1e-2


def test_a_batch_mixes_on_and_off(of_two):
    mixed = of_two(prompt=["rain"] * 3, control_images=[[None, IMAGE, None]])
    on, off = (
        of_two(prompt=["rain"] * 3, control_images=[image], controlnet_conditioning_scale=strengths)
        for image, strengths in ((IMAGE, [0.8, 0.8]), (IMAGE, [0.8, 0.0]))
    )
    np.testing.assert_array_equal(mixed[[0, 2]], off[[0, 2]])
    np.testing.assert_array_equal(mixed[1], on[1])


def test_switching_compiles_nothing(of_two, compiled_by):
    of_two(control_images=[IMAGE])
    for images in ([None], (), [IMAGE[::-1]]):
        assert compiled_by(of_two, control_images=images) == []


def test_other_numbers_of_images_are_refused(of_two):
    message = "control_images has 2 entries, 1 additional ControlNets .* None where one is off"
    with pytest.raises(InputError, match=message):
        of_two(control_images=[None, IMAGE])
