"""XLA compiler options by platform, and notification of compilations."""

import contextlib
import contextvars
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

logger = logging.getLogger(__name__)

OPTIONS: dict[str, dict[str, Any]] = {
    # Undocumented. It seems to set how close to the best possible time libtpu must expect a tiling
    # of a convolution or matrix product to be before it stops searching. With the default, an SDXL
    # step takes almost twice as long to compile, and by libtpu's own estimates layers run at most
    # 1.5 % faster.
    "tpu": {"xla_jf_convolution_performance_target": 0.98},
}
_on_compile: contextvars.ContextVar[Callable[[str], None] | None] = contextvars.ContextVar(
    "on_compile", default=None
)


@functools.cache
def compiler_options(platform: str) -> dict[str, Any]:
    """Compiler options for a platform; empty if this process's compiler rejects them."""
    options = OPTIONS.get(platform, {})
    # Options for absent devices cannot be tried.
    if options and platform == jax.default_backend():
        try:
            jax.jit(lambda: jnp.zeros(()), compiler_options=options).lower().compile()
        except jax.errors.JaxRuntimeError as error:
            logger.warning("compiling takes longer, because its options are rejected: %s", error)
            return {}
    return options


@contextlib.contextmanager
def reporting_compiles(on_compile: Callable[[str], None]) -> Iterator[None]:
    """Calls `on_compile` with a program's name before it is traced and compiled."""
    token = _on_compile.set(on_compile)
    try:
        yield
    finally:
        _on_compile.reset(token)


class Compiled:
    """A jitted function, compiled with the options of the default backend.

    Resolves the backend at the first call, because asking JAX for it initializes it for good.
    """

    def __init__(self, function: Callable, **arguments: Any):
        """`arguments` are those of `jax.jit`."""
        functools.update_wrapper(self, function)
        self._function = function
        self._arguments = arguments

    @functools.cached_property
    def _jitted(self) -> Callable:
        @functools.wraps(self._function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            # jit runs this body to trace it: before each compilation, and at no other time.
            if (on_compile := _on_compile.get()) is not None:
                on_compile(self._function.__name__)
            return self._function(*args, **kwargs)

        options = compiler_options(jax.default_backend())
        return jax.jit(traced, compiler_options=options, **self._arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._jitted(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        return self._jitted.lower(*args, **kwargs)


def compiled(**arguments: Any) -> Callable[[Callable], Compiled]:
    """`Compiled` as a decorator."""
    return lambda function: Compiled(function, **arguments)
