"""What the compiler of a platform is told beside the program."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

logger = logging.getLogger(__name__)

OPTIONS: dict[str, dict[str, Any]] = {
    # An option without documentation. As it behaves, libtpu tries windows for a convolution or
    # matrix product until it expects one to come this near to the best possible, by default nearly
    # all: a step of SDXL then takes almost twice as long to compile, for layers that by its own
    # estimates run at most 1.5 % faster.
    "tpu": {"xla_jf_convolution_performance_target": 0.98},
}


@functools.cache
def compiler_options(platform: str) -> dict[str, Any]:
    """The options for programs of a platform; none where this process's compiler refuses them."""
    options = OPTIONS.get(platform, {})
    # For devices that are not there, nothing can be tried.
    if options and platform == jax.default_backend():
        try:
            jax.jit(lambda: jnp.zeros(()), compiler_options=options).lower().compile()
        except jax.errors.JaxRuntimeError as error:
            logger.warning("compiling takes longer, because its options are refused: %s", error)
            return {}
    return options


class Compiled:
    """A jitted function that is compiled with the options of the process's own devices.

    Which these are, JAX may be asked only when it is first called: asking sets them for good.
    """

    def __init__(self, function: Callable, **arguments: Any):
        """`arguments` are those of `jax.jit`."""
        functools.update_wrapper(self, function)
        self._function = function
        self._arguments = arguments

    @functools.cached_property
    def _jitted(self) -> Callable:
        options = compiler_options(jax.default_backend())
        return jax.jit(self._function, compiler_options=options, **self._arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._jitted(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        return self._jitted.lower(*args, **kwargs)


def compiled(**arguments: Any) -> Callable[[Callable], Compiled]:
    """`Compiled` as a decorator."""
    return lambda function: Compiled(function, **arguments)
