"""Filters select the usable face, and give reasons for rejecting images."""

import numpy as np
import pytest

from instantid_jax.errors import InputError
from train.data.record_builder import Rejected, StoredImage
from train.prepare.filtering import Filter

FILTER = Filter(min_side=50, min_face_share=0.04, min_det_score=0.6, min_sharpness=10)
PIXELS = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
GOOD, FAINT, SMALL = [10, 10, 50, 50, 0.9], [40, 40, 90, 90, 0.55], [60, 60, 75, 75, 0.9]


def only_face(*boxes: list[float], pixels: np.ndarray = PIXELS) -> int:
    rows = np.array(boxes, np.float32).reshape(-1, 5)
    return FILTER.only_face(rows, StoredImage(b"", pixels))


def test_finds_the_usable_face_among_ignored_ones():
    assert only_face(GOOD) == 0
    assert only_face(FAINT, SMALL, GOOD) == 2


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([], "no face"),
        ([FAINT], "low detection score"),
        ([FAINT, SMALL], "face too small"),
        ([GOOD, [50, 50, 95, 95, 0.7]], "several faces"),
    ],
)
def test_rejects_with_the_reason(boxes, reason):
    with pytest.raises(Rejected, match=f"^{reason}$"):
        only_face(*boxes)


def test_rejects_blurred_faces_and_small_images():
    with pytest.raises(Rejected, match="face blurred"):
        only_face(GOOD, pixels=np.full_like(PIXELS, 128))
    FILTER.check_size((50, 900))
    with pytest.raises(Rejected, match="image too small"):
        FILTER.check_size((900, 49))


@pytest.mark.parametrize("wrong", [{"min_face_share": 2}, {"min_det_score": -1}, {"min_side": -1}])
def test_rejects_impossible_thresholds(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}=.*expected 0"):
        Filter(**wrong)
