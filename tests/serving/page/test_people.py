"""People: several photos, which face of a photo, and who is somebody else."""

import numpy as np
import pytest
import skimage.data
from PIL import Image

from instantid_jax import Face
from instantid_jax.serving.page import people
from instantid_jax.serving.page.people import Person, Source, draw_pose
from miniature.drawing.group import random_group
from miniature.portraits import draw_group, draw_random
from tests.serving.page.conftest import PHOTOS


def test_photos_of_one_person_are_alike_and_a_stranger_is_reported(analyst):
    person, refused = analyst.person(PHOTOS[:3])
    assert not refused and person.names == ["portrait.png", "portrait-2.png", "portrait-3.png"]
    cosines = person.likeness()
    first, second, third = (source.face for source in person.sources)
    assert cosines[0] == pytest.approx(first.similarity(Face.mean([second, third])))
    assert min(cosines[:2]) > 0.5 and cosines[2] < 0.3
    (remark,) = person.remarks()
    assert remark.startswith("portrait-3.png may show somebody else")
    assert person.tiles()[0][1] == f"✓ portrait.png · {cosines[0]:.2f}"
    mean = Face.mean([first, second, third])
    np.testing.assert_array_equal(person.face.embedding, mean.embedding)


def test_one_photo_has_no_cosine_and_no_photo_no_face(analyst):
    person, _ = analyst.person(PHOTOS[:1])
    assert person.likeness() == [None] and not person.remarks()
    assert Person().face is None and Person().tiles() == []


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A photo of two people."""
    path = tmp_path_factory.mktemp("group") / "group.png"
    people = random_group(np.random.default_rng(2), 2, (256, 256))
    draw_group(people, (256, 256))[0].image.save(path)
    return str(path)


def test_another_face_of_a_photo_is_chosen(analyst, group):
    person, _ = analyst.person([PHOTOS[0], group])
    assert [len(source.faces) for source in person.sources] == [1, 2]
    assert any("group.png has 2 faces: click the one to use" in r for r in person.remarks())
    captions = [caption for _, caption in person.tiles()]
    assert len(captions) == 3 and captions[2] == "group.png, face 2 (click to use)"
    chosen = person.choose(2)
    assert [source.chosen for source in chosen.sources] == [0, 1]
    assert [source.chosen for source in chosen.choose(1).sources] == [0, 0]
    assert [source.chosen for source in person.choose(9).sources] == [0, 0]


def test_bad_uploads_are_left_out_with_a_reason(analyst, tmp_path):
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "photo.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    Face(embedding=np.ones(8), kps=np.ones((5, 2)) * [[1, 9]]).save(tmp_path / "short.npz")
    names = ("photo.png", "black.png", "short.npz", "gone.png")
    person, refused = analyst.person([PHOTOS[0], *(str(tmp_path / name) for name in names)])
    assert person.names == ["portrait.png"]
    for message, expected in zip(
        refused,
        ("photo.png does not look like a drawn portrait", "no face found in black.png", "", ""),
        strict=True,
    ):
        assert message.startswith(expected) and str(tmp_path) not in message
    assert "different lengths" in refused[2]


def test_too_many_photos_are_cut(analyst, monkeypatch):
    monkeypatch.setattr(people, "PHOTOS", 1)
    person, refused = analyst.person(PHOTOS[:2])
    assert len(person.sources) == 1 and refused == ["2 photos: the first 1 are used."]


def test_a_face_file_is_shown_by_its_keypoints(analyst, person, tmp_path):
    person.face.save(tmp_path / "me.npz")
    again, refused = analyst.person([str(tmp_path / "me.npz")])
    assert not refused
    np.testing.assert_array_equal(again.face.embedding, person.face.embedding)
    ((picture, caption),) = again.tiles()
    assert caption == "✓ me.npz" and np.asarray(picture).any()


def test_keypoints_in_one_place_can_be_shown():
    source = Source.of_face(Face(embedding=np.ones(512), kps=np.full((5, 2), 9)), "a")
    assert source.pictures[0].size == (people.TILE, people.TILE)


def test_likeness_is_that_of_the_most_alike_face(analyst, group):
    (first, second) = analyst.source(group).faces
    with Image.open(group) as image:
        assert analyst.likeness(second, image) == pytest.approx(1, abs=1e-3)
        assert analyst.likeness(first, image) == pytest.approx(1, abs=1e-3)
    assert analyst.likeness(first, Image.new("RGB", (64, 64))) is None
    assert analyst.likeness(first, draw_random(1).image) < 0.9


def test_a_pose_has_the_aspect_ratio_of_its_photo(person):
    face = Face(embedding=np.ones(512), kps=person.face.kps, image_size=(128, 256))
    picture = draw_pose(face, 256)
    assert picture.size == (256, 128)
    assert draw_pose(Face(embedding=np.ones(512), kps=face.kps), 256).size == (256, 256)
