"""Photos that lie on their side."""

import numpy as np
import pytest

from instantid_jax.face.orientation import is_upright, quarter_turns

UPRIGHT = np.array([[20, 30], [44, 28], [33, 40], [24, 50], [43, 49]], np.float32)


@pytest.mark.parametrize(
    ("degrees", "upright"),
    [(0, True), (40, True), (-40, True), (50, False), (90, False), (180, False)],
)
def test_upright_up_to_an_eighth_of_a_turn(degrees, upright):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    assert is_upright(UPRIGHT @ turn) is upright


def test_turns_clockwise():
    image = np.arange(6).reshape(2, 3, 1)
    turned = quarter_turns(image)
    assert turned[90][..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]
    assert turned[180][..., 0].tolist() == [[5, 4, 3], [2, 1, 0]]
    np.testing.assert_array_equal(np.rot90(turned[270], -1), image)
