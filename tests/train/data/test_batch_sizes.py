import pytest

from train.data.batch_sizes import BatchSizes

SIZES = BatchSizes(((0, 4), (3, 8), (5, 2)))


def test_size_and_place_of_each_step():
    steps = range(7)
    assert [SIZES.at(step) for step in steps] == [4, 4, 4, 8, 8, 2, 2]
    assert [SIZES.examples_before(step) for step in steps] == [0, 4, 8, 12, 20, 28, 30]


def test_steps_take_a_number_of_examples():
    assert [SIZES.steps_with(n) for n in (1, 4, 12, 13, 20, 28, 29, 31)] == [1, 1, 3, 4, 4, 5, 6, 7]
    for steps in range(1, 20):
        assert SIZES.steps_with(SIZES.examples_before(steps)) == steps


def test_one_size_is_a_multiple_of_the_step():
    sizes = BatchSizes.constant(96)
    assert sizes.examples_before(10**9) == 96 * 10**9


def test_a_change_takes_the_place_of_one_at_the_same_step():
    """A run that was killed before its first checkpoint with the change may take another size."""
    assert SIZES.changed(9, 2) == SIZES
    assert SIZES.changed(9, 4).changes == (*SIZES.changes, (9, 4))
    assert SIZES.changed(5, 16).changes == (*SIZES.changes[:2], (5, 16))
    assert SIZES.changed(5, 8).changes == SIZES.changes[:2]
    assert SIZES.changed(0, 5) == BatchSizes.constant(5)


@pytest.mark.parametrize("changes", [(), ((1, 4),), ((0, 4), (0, 8)), ((0, 4), (3, 8), (2, 4))])
def test_rejects_steps_that_do_not_ascend_from_0(changes):
    with pytest.raises(ValueError, match="ascending steps from 0"):
        BatchSizes(changes)
