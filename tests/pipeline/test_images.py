"""Requests that begin with an image: which inputs they take, and what they leave alone."""

import numpy as np
import pytest

from instantid_jax import Face
from instantid_jax.errors import InputError
from instantid_jax.request import Request
from tests.pipeline.small_model import KPS, SIZE, person
from tests.pipeline.test_compilation import compiled_by

__all__ = ["compiled_by"]

IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def mask(left=40, right=100, level=255):
    levels = np.zeros(SIZE, np.uint8)
    levels[16:56, left:right] = level
    return levels


def begun(**changes):
    return {"image": IMAGE, "strength": 0.7, "pose": person(0)} | changes


def test_strength_moves_away_from_the_image(pipe, sample):
    latents = {
        s: sample(**begun(strength=s, num_inference_steps=4)).latents for s in (0.25, 0.5, 1)
    }
    plain = sample(num_inference_steps=4).latents
    kept = sample(**begun(strength=0.25, num_inference_steps=4, mask_image=mask(40, 48))).latents
    original = kept[:, :, :4]
    distance = {s: np.linalg.norm(each[:, :, :4] - original) for s, each in latents.items()}
    assert distance[0.25] < distance[0.5] < distance[1]
    # The image is in the noise of a whole run, too.
    assert np.linalg.norm(latents[1] - plain) > 1e-3


def test_a_mask_keeps_every_byte_around_it(sample):
    for arguments in ({}, {"padding_mask_crop": 4}, {"height": 128, "width": 128}):
        if "height" in arguments:
            arguments["padding_mask_crop"] = 8
        made = sample(**begun(mask_image=mask(), output_type="pil") | arguments).images[0]
        pixels = np.asarray(made)
        assert pixels.shape == IMAGE.shape
        np.testing.assert_array_equal(pixels[mask() == 0], IMAGE[mask() == 0])
        assert (pixels[mask() > 0] != IMAGE[mask() > 0]).mean() > 0.8


def test_gray_is_released_late(sample):
    """A darker part of the mask stays nearer to the image."""
    original = sample(**begun(mask_image=mask(40, 48))).latents
    changed = [
        np.abs(
            sample(
                **begun(strength=1.0, num_inference_steps=8, mask_image=mask(level=level))
            ).latents
            - original
        )
        for level in (60, 160, 255)
    ]
    inside = [each[:, 2:7, 6:12].mean() for each in changed]
    assert inside[0] < inside[1] < inside[2]
    assert all(each[:, :, 13:].max() == 0 for each in changed)


def test_a_batch_mixes_images_masks_and_noise(pipe):
    common = {"face": person(0), "height": SIZE[0], "width": SIZE[1], "num_inference_steps": 4}
    requests = [
        Request("rain", **common),
        Request("rain", **common | begun(scheduler="unipc")),
        Request("rain", **common | begun(mask_image=mask(), seed=3)),
    ]
    together = pipe.run(requests, output_type="latent").latents
    for i, request in enumerate(requests):
        alone = pipe.run([request], output_type="latent").latents
        np.testing.assert_allclose(together[i], alone[0], atol=2e-4)


def test_several_images_of_a_request(sample):
    made = sample(**begun(mask_image=mask(), num_images_per_prompt=2, output_type="pil"))
    first, second = (np.asarray(image) for image in made.images)
    assert (first != second).any()
    np.testing.assert_array_equal(second[mask() == 0], IMAGE[mask() == 0])


def test_changes_compile_nothing(sample, compiled_by):
    def call(**arguments):
        sample(**begun(mask_image=mask(), output_type="pil") | arguments)

    call()
    for change in (
        {"strength": 0.4},
        {"strength": 1.0},
        {"num_inference_steps": 6},
        {"mask_image": mask(10, 90, 130)},
        {"image": IMAGE[::-1]},
        {"padding_mask_crop": 4},
        {"mask_blur": 9},
        {"seed": 8},
    ):
        assert compiled_by(call, **change) == []


def test_a_plain_request_takes_the_usual_program(sample, compiled_by):
    sample(output_type="pil")
    sample(**begun(output_type="pil"))
    assert compiled_by(sample, output_type="pil") == []


def test_the_face_in_the_image_gives_the_keypoints(pipe, sample, monkeypatch):
    found = []

    def analyze(photo):
        found.append(photo)
        return Face(embedding=np.ones(512), kps=KPS + 4, image_size=SIZE)

    monkeypatch.setattr(pipe, "analyze", analyze)
    own = sample(**begun(pose=None))
    posed = sample(**begun(pose=Face(embedding=np.zeros(512), kps=KPS + 4, image_size=SIZE)))
    np.testing.assert_array_equal(own.latents, posed.latents)
    assert len(found) == 1
    sample(**begun(pose=None, control_image=IMAGE))
    assert len(found) == 1
    # The record says where they were.
    np.testing.assert_array_equal(own.provenance[0].request.pose.kps, KPS + 4)


def test_image_alone_is_one_of_keypoints(sample):
    drawn = sample(image=IMAGE, face=None, image_embeds=np.ones(512))
    named = sample(control_image=IMAGE, face=None, image_embeds=np.ones(512))
    np.testing.assert_array_equal(drawn.latents, named.latents)


def test_the_image_decides_the_size(sample):
    big = np.zeros((75, 99, 3), np.uint8)
    made = sample(**begun(image=big, height=None, width=None, output_type="pil"))
    assert made.images[0].size == (96, 72)


def test_with_a_mask_the_result_has_the_images_size(sample):
    big = np.random.default_rng(1).integers(0, 256, (75, 99, 3), np.uint8)
    painted = np.zeros((75, 99), np.uint8)
    painted[30:60, 30:70] = 255
    for size in ((None, None), SIZE):
        asked = begun(image=big, mask_image=painted, height=size[0], width=size[1])
        pixels = np.asarray(sample(**asked, output_type="pil").images[0])
        np.testing.assert_array_equal(pixels[painted == 0], big[painted == 0])
        assert (pixels[painted > 0] != big[painted > 0]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 0.5}, "strength without image"),
        ({"mask_image": mask()}, "mask_image without image"),
        (
            {"image": IMAGE, "strength": 0.5, "padding_mask_crop": 4},
            "padding_mask_crop without mask",
        ),
        ({"image": IMAGE, "control_image": IMAGE}, "both images of keypoints"),
        ({"image": IMAGE, "strength": 1.5}, "strength=1.5: expected a number from 0 to 1"),
        ({"image": IMAGE, "strength": 0.1}, "strength=0.1 of num_inference_steps=3 takes no step"),
        ({"image": IMAGE, "strength": 0}, "takes no step"),
        ({"image": IMAGE, "mask_image": np.zeros(SIZE, np.uint8)}, "black everywhere"),
        ({"image": "nowhere.png", "strength": 0.5}, "nowhere.png: no such file"),
    ],
)
def test_refused(sample, arguments, message):
    with pytest.raises(InputError, match=message):
        sample(pose=person(0), **arguments)
