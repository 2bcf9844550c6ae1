"""Checks of single values. Each returns the value in plain Python, or raises an InputError."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from instantid_jax.errors import InputError

# Numbers are computed with in float32.
FLOAT32_MAX = float(np.finfo(np.float32).max)
# Characters of a value in a message.
LONGEST = 80

# Checks the value of a named setting and returns it, normalized.
Check = Callable[[str, Any], Any]


def check_number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """A finite number in [low, high]."""
    try:
        number = math.nan if isinstance(value, str) or _is_flag(value) else float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if not low <= number <= min(high, FLOAT32_MAX):
        between = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{name}={shortened(value)}: expected a number {between}")
    return number


def shortened(value: Any) -> str:
    """A value in a message."""
    try:
        shown = repr(value)
    except ValueError:  # Python writes no more than 4300 digits.
        return f"(a {type(value).__name__} with a number too long to show)"
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in [low, high]."""
    try:
        number = None if _is_flag(value) else operator.index(value)
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise InputError(f"{name}={shortened(value)}: expected a whole number")
    if not low <= number <= high:
        raise InputError(f"{name}={shortened(number)}: expected {low} to {high}")
    return number


def check_side(name: str, value: Any) -> int:
    """Height or width of an image in pixels: a multiple of 8, as the VAE needs."""
    side = check_whole(name, value, 8, 16384)
    if side % 8:
        below, above = side // 8 * 8, -(-side // 8) * 8
        raise InputError(f"{name}={side} must be a multiple of 8: use {below} or {above}")
    return side


def check_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} holds a {type(value).__name__}: expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} has half a character at position {error.start}, {value[error.start]!a}: "
            "expected text in UTF-8"
        ) from error
    return value


def check_texts(name: str, value: Any) -> tuple[str, ...]:
    """A text, or several."""
    return each(check_text)(name, [value] if isinstance(value, str) else value)


def check_flag(name: str, value: Any) -> bool:
    if not _is_flag(value):
        raise InputError(f"{name}={shortened(value)}: expected True or False")
    return bool(value)


def check_pair(name: str, value: Any) -> tuple[int, int]:
    """Two whole numbers, (height, width) or (top, left)."""
    try:
        first, second = value
    except (TypeError, ValueError):
        raise InputError(f"{name}={shortened(value)}: expected two whole numbers") from None
    low, high = -65536, 65536
    return check_whole(name, first, low, high), check_whole(name, second, low, high)


def one_or_each(check: Check) -> Check:
    """One value for all ControlNets, or a tuple with one for each, IdentityNet's first."""

    def checked(name: str, value: Any) -> Any:
        if not _is_list(value):
            return check(name, value)
        values = tuple(check(name, item) for item in value)
        if not values:
            raise InputError(f"{name} is empty: give one number, or one for each ControlNet")
        return values[0] if len(values) == 1 else values

    return checked


def each(check: Check, count: int | None = None) -> Check:
    """A list of at least one value, or of `count`, as a tuple."""

    def checked(name: str, value: Any) -> tuple[Any, ...]:
        # Arrays of any library.
        value = value.tolist() if hasattr(value, "tolist") else value
        if not _is_list(value) or not len(value):
            raise InputError(f"{name}={shortened(value)}: expected a list of values")
        if count not in (None, len(value)):
            raise InputError(f"{name}={shortened(value)}: expected {count} numbers")
        return tuple(check(name, item) for item in value)

    return checked


def optional(check: Check) -> Check:
    """None, or what `check` accepts."""
    return lambda name, value: None if value is None else check(name, value)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_list(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str)
