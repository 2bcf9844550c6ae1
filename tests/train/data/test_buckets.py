from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from train.data.batch_sizes import BatchSizes
from train.data.buckets import Interleave, aspect_buckets, count_enlarged, nearest_buckets

EIGHT = BatchSizes.constant(8)


def test_buckets_are_sdxls_at_1024_and_multiples_of_32_below():
    assert aspect_buckets(1024) == (
        (1024, 1024),
        (1152, 896),
        (896, 1152),
        (1216, 832),
        (832, 1216),
    )
    for resolution in (64, 128, 256, 512, 768):
        buckets = aspect_buckets(resolution)
        assert buckets[0] == (resolution, resolution)
        assert len(set(buckets)) == len(buckets) <= 5
        assert all(side % 32 == 0 for size in buckets for side in size)


def test_images_go_to_the_nearest_aspect_ratio():
    buckets = ((1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216))
    sizes = np.array([[500, 500], [5000, 1000], [1000, 5000], [1150, 900], [900, 1150], [100, 96]])
    np.testing.assert_array_equal(nearest_buckets(sizes, buckets), [0, 3, 4, 1, 2, 0])
    # Among buckets of equal ratio, the first gets all images.
    assert nearest_buckets(np.array([[64, 64]]), ((32, 32), (64, 64))).tolist() == [0]


def test_counts_images_that_do_not_cover_their_bucket():
    buckets = ((64, 64), (96, 48))
    sizes = np.array([[64, 64], [63, 80], [96, 48], [400, 47], [200, 96]])
    assert count_enlarged(sizes, buckets) == 2


@pytest.mark.parametrize("counts", [(64, 32, 8), (5, 3), (1, 0, 7), (1000, 1), (3,)])
def test_each_bucket_gets_its_share_in_order(counts):
    interleave = Interleave(counts, EIGHT, seed=3)
    steps = 6 * sum(counts) // 8 + 30
    places = [interleave.place(step) for step in range(steps)]
    for bucket, count in enumerate(counts):
        numbers = [number for b, number in places if b == bucket]
        # The batches of a bucket are consecutive.
        assert numbers == list(range(0, 8 * len(numbers), 8))
        share = count / sum(counts)
        epoch_length = sum(counts) / 8
        assert abs(len(numbers) - share * steps) <= share * epoch_length + len(counts) + 1
    epochs = [interleave.epoch(step) for step in range(steps)]
    assert epochs == sorted(epochs) and epochs[0] <= 8 // sum(counts) + 1


def test_epoch_has_as_many_batches_of_a_bucket_as_its_examples_fill():
    interleave = Interleave((64, 32, 8), EIGHT, seed=1)
    orders = []
    for epoch in range(3):
        steps = range(13 * epoch, 13 * (epoch + 1))
        assert {interleave.epoch(step) for step in steps} == {epoch}
        order = [interleave.place(step)[0] for step in steps]
        assert Counter(order) == {0: 8, 1: 4, 2: 1}
        orders.append(tuple(order))
    assert len(set(orders)) == 3
    other = Interleave((64, 32, 8), EIGHT, seed=2)
    assert tuple(other.place(step)[0] for step in range(13)) != orders[0]


def test_partial_batches_carry_over_to_the_next_epoch():
    interleave = Interleave((Fraction(20), Fraction(4)), EIGHT, seed=0)
    # 2.5 and 0.5 batches per epoch: 5 and 1 in two epochs.
    for pair in range(4):
        steps = range(6 * pair, 6 * (pair + 1))
        assert Counter(interleave.place(step)[0] for step in steps) == {0: 5, 1: 1}
        assert {interleave.epoch(step) // 2 for step in steps} == {pair}


def test_late_steps_need_no_state():
    interleave = Interleave((6_000_000, 1_234_567), BatchSizes.constant(96), seed=0)
    bucket, number = interleave.place(10**9)
    share = (6_000_000, 1_234_567)[bucket] / 7_234_567
    assert number == pytest.approx(share * 96 * 10**9, rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        ((0, 8), (5, 4)),
        # In one epoch, at its end, with a batch larger than a bucket, and back.
        ((0, 8), (3, 2), (9, 8), (13, 40), (14, 8)),
        ((0, 1), (40, 3)),
    ],
)
@pytest.mark.parametrize("counts", [(64, 32, 8), (5, 3), (1, 0, 7), (Fraction(20), Fraction(9, 2))])
def test_buckets_continue_where_the_batch_size_changes(changes, counts):
    sizes = BatchSizes(changes)
    interleave = Interleave(counts, sizes, seed=3)
    taken, epochs = [0] * len(counts), []
    for step in range(100):
        bucket, number = interleave.place(step)
        assert number == taken[bucket]
        taken[bucket] += sizes.at(step)
        epochs.append(interleave.epoch(step))
        # All examples of the epoch before are taken but those of a partial batch of each bucket.
        for each, count in zip(taken, counts, strict=True):
            largest = max(size for first, size in changes if first <= step)
            assert each - largest <= (epochs[-1] + 1) * count
            assert each + largest >= epochs[-1] * count
    assert epochs == sorted(epochs)
    assert sum(taken) == sizes.examples_before(100)


def test_steps_before_a_change_are_the_same():
    one = Interleave((64, 32, 8), EIGHT, seed=1)
    two = Interleave((64, 32, 8), BatchSizes(((0, 8), (20, 16))), seed=1)
    assert [one.place(step) for step in range(20)] == [two.place(step) for step in range(20)]
