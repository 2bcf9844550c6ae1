"""diffusers' calls with lists, as one request for each prompt."""

import numpy as np
import pytest

from instantid_jax import Face
from instantid_jax.errors import InputError
from instantid_jax.request.split import ARGUMENTS, split


def face(number: int) -> Face:
    return Face(embedding=np.full(512, number + 2.0), kps=np.full((5, 2), number))


def test_single_values_make_one_request():
    (request,) = split({"prompt": "a", "face": face(0), "seed": 3, "image": None})
    assert (request.prompt, request.seed, request.kps_image) == ("a", 3, None)


def test_single_values_stand_for_all():
    requests = split(
        {"prompt": ["a", "b"], "face": face(0), "seed": np.arange(2), "height": 64, "width": 64}
    )
    assert [(r.prompt, r.seed, r.height) for r in requests] == [("a", 0, 64), ("b", 1, 64)]
    assert requests[0].face is requests[1].face


def test_the_official_image_is_the_image_of_keypoints():
    first, second = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
    (request,) = split({"prompt": "a", "image": first})
    assert request.kps_image is first
    assert [r.kps_image is second for r in split({"prompt": "a", "image": [first, second]})] == [
        False,
        True,
    ]


def test_control_images_are_one_or_one_a_prompt_for_each_net():
    requests = split({"prompt": ["a", "b"], "control_images": ["one.png", ["x.png", "y.png"]]})
    assert [r.control_images for r in requests] == [("one.png", "x.png"), ("one.png", "y.png")]
    (first, second) = split({"prompt": ["a", "b"], "control_images": [None, ["x.png", None]]})
    assert (first.control_images, second.control_images) == ((None, "x.png"), (None, None))
    (first, second) = split({"prompt": ["a", "b"], "control_mask": ["a.png", None]})
    assert (first.control_mask, second.control_mask) == ("a.png", None)
    assert split({"prompt": "a", "control_masks": "one.png"})[0].control_masks == ("one.png",)
    assert split({"prompt": "a", "control_images": "one.png"})[0].control_images == ("one.png",)


def test_arrays_have_a_row_for_each_prompt_or_one_for_all():
    hidden, pooled = np.ones((2, 77, 96)), np.ones((1, 64))
    requests = split({"prompt_embeds": hidden, "pooled_prompt_embeds": pooled})
    assert len(requests) == 2
    assert requests[1].prompt_embeds.shape == (77, 96)
    assert requests[1].pooled_prompt_embeds.shape == (64,)


def test_latents_are_shared_out_among_the_prompts():
    latents = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
    requests = split({"prompt": ["a", "b"], "num_images_per_prompt": 2, "latents": latents})
    assert [r.latents.ravel().tolist() for r in requests] == [[0, 1], [2, 3]]
    with pytest.raises(InputError, match="latents have shape"):
        split({"prompt": ["a", "b", "c"], "latents": latents})


def test_every_argument_may_be_none():
    assert split(dict.fromkeys(ARGUMENTS))[0].prompt is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ["a", "b"], "seed": [1, 2, 3]}, "prompt 2, seed 3"),
        ({"prompt": []}, "prompt 0"),
        ({"prompt": ["a", "b"], "control_images": [["x"]]}, r"prompt 2, control_images\[0\] 1"),
        ({"prompts": "a"}, "did you mean prompt"),
        ({"masked_image_latents": None}, "masked_image_latents is not supported"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        split(arguments)
