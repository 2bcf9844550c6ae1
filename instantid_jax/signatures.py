"""The signatures that functions show to help texts, editors and tyro."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Call = TypeVar("Call", bound=Callable[..., Any])


def with_signature(call: Call, signature: inspect.Signature) -> Call:
    """Makes `inspect.signature` return another signature for `call`, and returns `call`."""
    setattr(call, "__signature__", signature)  # noqa: B010 (no type of functions has it)
    return call
