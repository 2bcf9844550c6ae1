"""Requests for the small model."""

from typing import Any

from instantid_jax.request import Request
from tests.pipeline import small_model


def ask(number: int = 0, prompt: str = "a man in the rain", **settings: Any) -> Request:
    """A request for a person, with defaults for all that a test does not speak of."""
    height, width = small_model.SIZE
    defaults = {"height": height, "width": width, "num_inference_steps": 3, "seed": number}
    return Request(prompt, face=small_model.person(number), **defaults | settings)
