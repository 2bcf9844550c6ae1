"""Pictures of held-out people, with a pipeline that only records its requests."""

import dataclasses
from types import SimpleNamespace

import numpy as np
from PIL import Image

from instantid_jax.face.face import Face
from miniature.evaluation.generation import SAMPLING, make_pictures
from miniature.evaluation.held_out import draw_case


def test_requests_have_their_cases_caption_keypoints_photos_and_seed():
    cases = [draw_case(5, number, photos=2) for number in range(5)]
    faces = [
        [Face(embedding=np.full(4, 3.0 * i + j), kps=photo.kps) for j, photo in enumerate(c.photos)]
        for i, c in enumerate(cases)
    ]
    batches = []

    def run(requests):
        batches.append(requests)
        return SimpleNamespace(pil_images=[Image.new("L", (1, 1), each.seed) for each in requests])

    pipe = SimpleNamespace(run=run)
    held_out = SimpleNamespace(cases=cases, faces=faces)
    sampling = dataclasses.replace(SAMPLING, guidance_scale=1.5)
    made = make_pictures(pipe, held_out, sampling, seed=7, batch=2, photos=2)
    assert [picture.getpixel((0, 0)) for picture in made] == [7, 8, 9, 10, 11]
    # Three batches with the same shape.
    assert [len(requests) for requests in batches] == [2, 2, 2]
    first, second = batches[1]
    assert [first.prompt, second.prompt] == [cases[2].target.caption, cases[3].target.caption]
    np.testing.assert_array_equal(first.face.kps, cases[2].target.kps)
    np.testing.assert_array_equal(first.face.embedding, 6.5)  # the mean of both photos
    assert first.height == first.width == first.face.image_size[0] == 128
    assert first.guidance_scale == 1.5
    make_pictures(pipe, held_out, SAMPLING, seed=7, batch=5, photos=0)
    assert all((request.face.embedding == 0).all() for request in batches[-1])
