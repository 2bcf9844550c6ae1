"""Compiler options of platforms, and compiled functions."""

import logging

import jax.numpy as jnp
import pytest

from instantid_jax import compilation
from instantid_jax.compilation import Compiled, compiled, compiler_options


@pytest.fixture(autouse=True)
def clear_options():
    compiler_options.cache_clear()
    yield
    compiler_options.cache_clear()


def test_passes_options_that_the_compiler_accepts(monkeypatch):
    options = {"xla_cpu_enable_fast_math": False}
    monkeypatch.setitem(compilation.OPTIONS, "cpu", options)
    assert compiler_options("cpu") == options


def test_drops_rejected_options_and_warns_once(monkeypatch, caplog):
    monkeypatch.setitem(compilation.OPTIONS, "cpu", {"xla_no_such_option": 1})
    double = Compiled(lambda x: 2 * x)
    with caplog.at_level(logging.WARNING):
        assert double(jnp.ones(())) == 2
        assert compiler_options("cpu") == {}
    (record,) = caplog.records
    assert "No such compile option: 'xla_no_such_option'" in record.getMessage()


def test_does_not_try_options_of_absent_devices():
    assert compiler_options("tpu") == compilation.OPTIONS["tpu"]


def test_traces_once_for_equal_arguments():
    traced = []

    @compiled(static_argnames=("factor",))
    def scale(x, factor):
        """Says what it does."""
        traced.append(factor)
        return factor * x

    assert scale.__doc__ == "Says what it does."
    assert [float(scale(jnp.ones(()), factor=f)) for f in (3, 3, 4)] == [3, 3, 4]
    assert traced == [3, 4]
    assert "multiply" in scale.lower(jnp.ones(()), factor=5).as_text()
