from collections import Counter

import cv2
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.face.keypoints import draw_keypoints
from tests.train.data import drawn
from train.data.config import CaptionShare, DataConfig, DatasetShare
from train.data.examples import Choices, choose_caption, choose_embedding, make_example
from train.data.record import CorruptRecord

SOMEWHERE = (DatasetShare(folder="nowhere"),)


def config(**settings) -> DataConfig:
    return DataConfig(**({"datasets": SOMEWHERE, "buckets": ((96, 64),)} | settings))


def dots(pixels: np.ndarray) -> np.ndarray:
    """The center of each keypoint's color, [5, 2]."""
    found = []
    for color in drawn.COLORS:
        near = np.abs(pixels.astype(int) - color).sum(-1) < 120
        y, x = np.nonzero(near)
        assert len(x), f"no dot of color {color}"
        found.append([x.mean(), y.mean()])
    return np.array(found)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((512, 512), (256, 256)),
        ((400, 600), (256, 256)),
        ((600, 400), (256, 256)),
        ((700, 300), (256, 192)),
        ((300, 350), (352, 288)),
    ],
)
@pytest.mark.parametrize("policy", ["random", "center"])
def test_image_keypoints_and_box_move_together(source, target, policy):
    image = drawn.jpeg(drawn.picture(*source, radius=max(source) // 50))
    record = drawn.record(0, *source, image=image, sha256="")
    lefts = set()
    for index in range(4):
        example = make_example(record, target, config(crop=policy), Choices(0, index))
        height, width, top, left, *window = example["time_ids"]
        assert (height, width) == (2 * source[0], 2 * source[1])
        assert tuple(window) == target
        lefts.add((top, left))
        scale = max(target[0] / source[0], target[1] / source[1])
        expected = record.kps * scale - [left, top]
        np.testing.assert_allclose(dots(example["images"]), expected, atol=1.0)
        np.testing.assert_allclose(
            example["face_box"].reshape(2, 2),
            np.clip(record.bbox.reshape(2, 2) * scale - [left, top], 0, target[::-1]),
            atol=0.6,
        )
        np.testing.assert_allclose(example["kps"], expected, atol=0.6)
        # The drawing matches that of the dots found in the crop, up to rounding.
        drawing = draw_keypoints(*target, expected)
        differing = (example["keypoint_images"] != drawing).any(-1).sum()
        assert differing <= 0.1 * (drawing > 0).any(-1).sum()
        box = example["face_box"]
        share = (box[2] - box[0]) * (box[3] - box[1]) / (target[0] * target[1])
        np.testing.assert_allclose(example["face_share"], share, rtol=1e-5)
    moves = policy == "random" and source[0] * target[1] != source[1] * target[0]
    assert (len(lefts) > 1) == moves


def test_keypoints_are_drawn_in_target_pixels():
    # A photo four times as large gives the same discs of radius 10, as in sampling.
    small, large = drawn.record(0, 256, 256), drawn.record(0, 1024, 1024)
    large = drawn.record(0, 1024, 1024, kps=small.kps * 4, bbox=small.bbox * 4, image=large.image)
    examples = [make_example(r, (256, 256), config(), Choices(0, 0)) for r in (small, large)]
    np.testing.assert_array_equal(*[example["keypoint_images"] for example in examples])
    np.testing.assert_array_equal(
        examples[0]["keypoint_images"], draw_keypoints(256, 256, small.kps)
    )


def test_pixels_are_those_of_the_jpeg():
    record = drawn.record(0, 96, 64)
    example = make_example(record, (96, 64), config(), Choices(0, 0))
    flags = cv2.IMREAD_COLOR_RGB
    expected = cv2.imdecode(np.frombuffer(record.image, np.uint8), flags)
    np.testing.assert_array_equal(example["images"], expected)


def test_original_size_affects_only_the_time_ids():
    # Faces are in pixels of the stored image.
    record = drawn.record(0, 96, 64, original_size=(960, 640))
    example = make_example(record, (96, 64), config(), Choices(0, 0))
    np.testing.assert_array_equal(example["time_ids"], [960, 640, 0, 0, 96, 64])


def test_captions_are_drawn_by_weight():
    draws = np.random.default_rng(0).random(2000)
    held = {"alt": "a", "blip2": "b", "vlm": "c"}

    def shares(captions, *wanted):
        made = config(captions=tuple(CaptionShare(source=s, weight=w) for s, w in wanted))
        counts = Counter(choose_caption(captions, made, float(draw)) for draw in draws)
        return {text: count / len(draws) for text, count in counts.items()}

    assert shares(held) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, abs=0.04)
    # Sources that a record lacks take no share.
    wanted = ("blip2", 3), ("alt", 1), ("other", 5)
    assert shares(held, *wanted) == pytest.approx({"a": 0.25, "b": 0.75}, abs=0.04)
    assert shares({"vlm": "c"}, ("alt", 1)) == {"": 1}
    assert shares({}) == {"": 1}


def test_references_are_drawn_with_the_configured_probability():
    references = np.ones((3, 512), np.float32) * [[1], [2], [3]]
    record = drawn.record(0, reference_embeddings=references.astype(np.float32))
    choices = [Choices(0, index) for index in range(2000)]

    def first(setting, record):
        return [float(choose_embedding(record, setting, choice)[0]) for choice in choices]

    own = float(record.embedding[0])
    assert set(first(config(), record)) == {own}
    counts = Counter(first(config(reference_probability=0.4), record))
    assert counts[own] / 2000 == pytest.approx(0.6, abs=0.04)
    assert all(counts[value] / 2000 == pytest.approx(0.4 / 3, abs=0.03) for value in (1, 2, 3))
    assert set(first(config(reference_probability=1), drawn.record(0))) == {own}


def test_settings_do_not_affect_other_choices():
    record = drawn.record(0, 200, 64, reference_embeddings=np.ones((2, 512)))
    plain = make_example(record, (64, 64), config(), Choices(5, 6))
    other = config(reference_probability=1.0, captions=(CaptionShare(source="none"),))
    changed = make_example(record, (64, 64), other, Choices(5, 6))
    np.testing.assert_array_equal(plain["images"], changed["images"])
    assert plain["caption"] != changed["caption"]
    assert (plain["id_embeds"] != changed["id_embeds"]).all()


def test_keypoints_that_cannot_be_drawn_are_corrupt():
    record = drawn.record(0, 8, 8, kps=np.full((5, 2), 2.0**19, np.float32))
    with pytest.raises(CorruptRecord, match="keypoints"):
        make_example(record, (96, 96), config(), Choices(0, 0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"datasets": ()}, "datasets is empty"),
        ({"datasets": (DatasetShare(folder="a", weight=0),)}, "expected a positive"),
        ({"captions": (CaptionShare(source="a", weight=float("nan")),)}, "expected a positive"),
        ({"buckets": ()}, "expected one or more"),
        ({"buckets": ((64, 64), (64, 64))}, "distinct sizes"),
        ({"buckets": ((100, 64),)}, "multiples of 32"),
        ({"crop": "corner"}, "'random' or 'center'"),
        ({"reference_probability": 1.5}, "expected 0 to 1"),
    ],
)
def test_rejects_invalid_settings(settings, message):
    with pytest.raises(InputError, match=message):
        config(**settings)
