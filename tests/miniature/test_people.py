"""Drawing people as a folder of photos."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from configs.miniature import BUCKETS
from instantid_jax.errors import InputError
from miniature.people import Options, draw_people
from train.data.candidates import find_candidates


def read(path):
    return np.asarray(Image.open(path))


def test_drawing_more_people_keeps_existing_ones(tmp_path):
    draw_people(Options(output=tmp_path, people=2, pictures=2, processes=1))
    first, second = read(tmp_path / "000000/0.jpg"), read(tmp_path / "000000/1.jpg")
    assert first.shape == (128, 128, 3) and (first != second).any()
    (tmp_path / "000001/0.jpg").unlink()
    draw_people(Options(output=tmp_path, people=3, pictures=2, processes=1))
    np.testing.assert_array_equal(read(tmp_path / "000000/0.jpg"), first)
    # Existing folders are left unchanged.
    assert not (tmp_path / "000001/0.jpg").exists()

    found = {c.key: c.sidecars.caption for c in find_candidates(tmp_path, None, Counter())}
    assert list(found) == ["000000/0", "000000/1", "000001/1", "000002/0", "000002/1"]
    assert all(" person, wearing " in caption for caption in found.values())
    assert len(set(found.values())) == len(found)


def test_a_persons_last_picture_is_wide_or_tall(tmp_path):
    draw_people(Options(output=tmp_path, people=2, processes=1))
    sizes = [
        [read(tmp_path / f"00000{person}/{i}.jpg").shape[:2] for i in range(3)]
        for person in range(2)
    ]
    assert sizes == [[(128, 128)] * 2 + [last] for last in ((128, 192), (192, 128))]
    assert {size for each in sizes for size in each} == set(BUCKETS)


def test_people_do_not_depend_on_the_first(tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    draw_people(Options(output=whole, people=2, pictures=1, processes=1))
    draw_people(Options(output=part, people=1, first=1, pictures=1, processes=1))
    assert [folder.name for folder in part.iterdir()] == ["000001"]
    np.testing.assert_array_equal(read(part / "000001/0.jpg"), read(whole / "000001/0.jpg"))


def test_rejects_a_negative_first_person(tmp_path):
    with pytest.raises(InputError, match="--first is -1"):
        draw_people(Options(output=tmp_path, first=-1))


def test_rejects_zero_pictures(tmp_path):
    with pytest.raises(InputError, match="--pictures is 0"):
        draw_people(Options(output=tmp_path, pictures=0))
