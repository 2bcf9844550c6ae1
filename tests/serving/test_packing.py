"""Packing: every picture once, in the least time."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instantid_jax.serving.packing import pack, pack_seconds

POWERS = (1, 2, 4, 8, 16)
rows = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=8)
times = st.lists(st.floats(0.01, 10), min_size=5, max_size=5).map(
    lambda values: dict(zip(POWERS, values, strict=True))
)


@given(rows, times)
def test_every_picture_is_in_one_batch_that_holds_it(counts, seconds):
    batches = pack(counts, seconds)
    assert sorted(i for _, chosen in batches for i in chosen) == list(range(len(counts)))
    for size, chosen in batches:
        assert 0 < sum(counts[i] for i in chosen) <= size


@given(rows, times)
def test_no_other_choice_of_sizes_is_quicker(counts, seconds):
    taken = pack_seconds(counts, seconds)
    pairs, singles = counts.count(2), counts.count(1)
    for number in (1, 2, 3):
        for sizes in itertools.combinations_with_replacement(POWERS, number):
            room = sum(sizes) - 2 * pairs
            if sum(size // 2 for size in sizes) >= pairs and room >= singles:
                assert taken <= sum(seconds[size] for size in sizes) + 1e-9


def test_time_decides_between_one_batch_and_several():
    linear = {size: float(size) for size in POWERS}
    flat = {size: 1 + size / 100 for size in POWERS}
    five = [2, 2, 1]
    assert sorted(size for size, _ in pack(five, linear)) == [1, 4]
    assert [size for size, _ in pack(five, flat)] == [8]


def test_nothing_needs_no_batch():
    assert pack([], {1: 1.0}) == []


def test_a_pair_needs_two_rows():
    with pytest.raises(ValueError, match="two rows fit no batch of"):
        pack([2], {1: 1.0})
