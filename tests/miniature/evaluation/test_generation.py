"""Pictures of held-out people, of a pipeline that only tells what it was asked for."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from instantid_jax.face.face import Face
from miniature.evaluation.generation import Sampling, make_pictures
from miniature.evaluation.held_out import draw_case


def test_each_is_asked_for_with_its_own_caption_keypoints_photos_and_seed():
    cases = [draw_case(5, number, photos=2) for number in range(5)]
    faces = [
        [Face(embedding=np.full(4, 3.0 * i + j), kps=photo.kps) for j, photo in enumerate(c.photos)]
        for i, c in enumerate(cases)
    ]
    calls = []

    def pipe(prompts, *, face, seed, **settings):
        calls.append((prompts, face, seed, settings))
        return SimpleNamespace(images=[Image.new("L", (1, 1), each) for each in seed])

    held_out = SimpleNamespace(cases=cases, faces=faces)
    made = make_pictures(pipe, held_out, Sampling(batch=2, guidance_scale=1.5), seed=7, photos=2)
    assert [picture.getpixel((0, 0)) for picture in made] == [7, 8, 9, 10, 11]
    # Three batches of one shape.
    assert [len(prompts) for prompts, *_ in calls] == [2, 2, 2]
    prompts, asked, _, settings = calls[1]
    assert prompts == [cases[2].target.caption, cases[3].target.caption]
    np.testing.assert_array_equal(asked[0].kps, cases[2].target.kps)
    np.testing.assert_array_equal(asked[0].embedding, 6.5)  # of both photos
    assert settings["height"] == settings["width"] == asked[0].image_size[0] == 128
    assert settings["guidance_scale"] == 1.5 and "batch" not in settings
    make_pictures(pipe, held_out, Sampling(batch=5), seed=7, photos=0)
    assert all((face.embedding == 0).all() for face in calls[-1][1])
