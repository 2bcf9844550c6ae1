"""Weights that wait on the host, and are on the devices only while a stage uses them."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Sharding

from instantid_jax.errors import InputError
from instantid_jax.params import Params
from instantid_jax.pipeline.placement import place

# Parts of a model that not all stages use.
OFFLOADED = ("text_encoder", "text_encoder_2", "controlnets", "refiner", "vae")
Weights = TypeVar("Weights")


class Offload:
    """The parts of a model that wait on the host. Not for several threads at once.

    Attributes:
      parts: their names; empty if all weights stay on the devices.
    """

    def __init__(self, offload: bool):
        """Raises an InputError unless `offload` is a bool."""
        if not isinstance(offload, bool):
            raise InputError(f"offload={offload!r}: expected True or False")
        self.parts = OFFLOADED if offload else ()
        self._kept: set[str] = set()
        # The host's weights of the parts that are on the devices.
        self._waiting: dict[str, Any] = {}

    @contextlib.contextmanager
    def resident(
        self, params: dict[str, Any], parts: Iterable[str], sharding: Sharding
    ) -> Iterator[None]:
        """Inside, `params` has the weights of these parts on the devices.

        Args:
          params: by part, changed in place; a model without a part passes over it.
          sharding: that of weights which are always on the devices.
        """
        held = {name for name in self.parts if name in params} - set(self._waiting)
        moved = [name for name in parts if name in held]
        try:
            for name in moved:
                here = to_devices(params[name], sharding)
                self._waiting[name], params[name] = params[name], here
            yield
        finally:
            self._release(params, (name for name in moved if name not in self._kept))

    @contextlib.contextmanager
    def keeping(self, params: dict[str, Any], parts: Iterable[str]) -> Iterator[None]:
        """Inside, these parts stay on the devices once a stage has used them."""
        parts = set(parts)
        self._kept |= parts
        try:
            yield
        finally:
            self.release(params, parts)

    def release(self, params: dict[str, Any], parts: Iterable[str]) -> None:
        """Ends what `keeping` does for these parts."""
        parts = set(parts)
        self._kept -= parts
        self._release(params, parts)

    def _release(self, params: dict[str, Any], parts: Iterable[str]) -> None:
        for name in parts:
            if name in self._waiting:
                params[name] = self._waiting.pop(name)


def to_host(params: Params) -> Params:
    """Weights as NumPy arrays, under the type of weights on devices: programs take either."""
    host: dict[str, Any] = {name: np.asarray(value) for name, value in params.items()}
    return host


def to_devices(weights: Weights, sharding: Sharding) -> Weights:
    """Copies weights to the devices, in the layouts that `place` gives them.

    One at a time, so that copies in two layouts exist of one only.
    """

    def put(value: np.ndarray) -> jax.Array:
        return place({"": jax.device_put(value, sharding)}, None)[""]

    return jax.tree.map(put, weights)
