"""Reading configurations."""

import dataclasses

import pytest

from instantid_jax.errors import InputError
from instantid_jax.models.config import config_from_json, per_block


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 3
    widths: tuple = ()


def test_lists_become_tuples_at_any_depth():
    config = config_from_json(Config, {"widths": [1, [2, 3]]}, only={})
    assert config == Config(widths=(1, (2, 3)))


def test_unknown_settings_are_left_out():
    assert config_from_json(Config, {"width": 4, "_class_name": "x"}, only={}) == Config(width=4)


def test_a_fixed_setting_may_be_absent_or_have_a_supported_value():
    for settings in ({}, {"kind": None}, {"kind": "a"}):
        assert config_from_json(Config, settings, only={"kind": (None, "a")}) == Config()


def test_another_value_of_a_fixed_setting_is_refused_by_name():
    with pytest.raises(
        InputError, match=r"Config: kind='b' is not supported, expected None or 'a'"
    ):
        config_from_json(Config, {"kind": "b"}, only={"kind": (None, "a")})


def test_one_integer_stands_for_every_block():
    assert per_block(2, 3, "layers") == (2, 2, 2)
    assert per_block((1, 2, 3), 3, "layers") == (1, 2, 3)


@pytest.mark.parametrize("value", [(1, 2), (1, 2, (3,)), ()])
def test_another_number_of_blocks_is_refused(value):
    with pytest.raises(InputError, match=r"layers=.*must be an integer, or one for each of 3"):
        per_block(value, 3, "layers")
