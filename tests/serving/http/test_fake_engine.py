"""The engine that draws has the interface of the real one."""

import dataclasses
import inspect

import pytest

from instantid_jax.serving.engine import Engine
from instantid_jax.serving.status import Status
from tests.serving.http import fake_engine
from tests.serving.http.fake_engine import FakeEngine


@pytest.mark.parametrize(
    "name", ["warm_up", "submit", "check", "position", "close", "__enter__", "__exit__"]
)
def test_methods_have_the_same_signature(name):
    real, fake = (inspect.signature(getattr(each, name)) for each in (Engine, FakeEngine))
    assert real == fake


def test_numbers_are_among_those_of_the_real_one():
    names = [
        {field.name for field in dataclasses.fields(each)} for each in (fake_engine.Status, Status)
    ]
    assert names[0] <= names[1]
