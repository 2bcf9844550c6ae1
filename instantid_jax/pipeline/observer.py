"""Observers follow a call's stages, compilations and steps, and may change or cancel it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from instantid_jax.errors import InputError
from instantid_jax.pipeline.model import LoadedModel

STAGES = ("encode", "sample", "decode")


class Canceled(Exception):
    """Raised by an observer to end a call; the pipeline does not catch it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A denoising step that was dispatched to the devices.

    Attributes:
      index: from 0; `total`: of all steps.
      timesteps: [B] float32, of each image.
      sample: [B, H, W, C] float32 on the devices, valid until the observer returns.
      model: that is sampling.
    """

    index: int
    total: int
    timesteps: np.ndarray
    sample: jax.Array
    model: LoadedModel

    @functools.cached_property
    def latents(self) -> np.ndarray:
        """[B, H, W, C] float32 after the step; waits for it."""
        return np.array(self.sample)

    def preview(self) -> np.ndarray:
        """[B, H, W, 3] uint8; see `preview`. Waits for the step."""
        return preview(self.model, self.latents)


def preview(model: LoadedModel, latents: np.ndarray) -> np.ndarray:
    """Roughly the colors of images so far, at an eighth of their size: an affine map, on the host.

    Args:
      latents: [B, H, W, C] float32.
    Returns:
      [B, H, W, 3] uint8.
    """
    matrix = model.rgb_of_latents
    rgb = latents @ matrix[:-1] + matrix[-1]
    return (np.clip(rgb, 0, 1) * 255).round().astype(np.uint8)


class Observer:
    """Receives all events and does nothing; override what you need."""

    def on_stage(self, stage: str) -> None:
        """A stage of `STAGES` begins."""

    def on_compile(self, program: str) -> None:
        """A program is traced and compiled now, which can take minutes."""

    def on_step(self, step: Step) -> np.ndarray | None:
        """A step was dispatched. Returns latents to continue with, or None to keep its own.

        Raise `Canceled` to end the call.
        """

    def on_progress(self, done: int, total: int) -> None:
        """`done` of `total` steps are finished, and their latents are finite."""


class Bar(Observer):
    """A progress line on a terminal; none elsewhere."""

    def __init__(self):
        self._bar = tqdm(unit="step", disable=None)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def on_stage(self, stage: str) -> None:
        self._bar.set_description({"encode": "encoding", "decode": "decoding"}.get(stage, stage))

    def on_compile(self, program: str) -> None:
        self._bar.set_description("compiling")

    def on_step(self, step: Step) -> None:
        if step.index == 0:
            self._bar.reset(total=step.total)
            self._bar.set_description("sampling")

    def on_progress(self, done: int, total: int) -> None:
        self._bar.update()


class Several(Observer):
    """Passes everything on to several observers, in their order."""

    def __init__(self, *observers: Observer):
        for each in observers:
            if not isinstance(each, Observer):
                raise InputError(f"observer={each!r}: expected an instance of Observer")
        self._observers = observers

    def on_stage(self, stage: str) -> None:
        for each in self._observers:
            each.on_stage(stage)

    def on_compile(self, program: str) -> None:
        for each in self._observers:
            each.on_compile(program)

    def on_step(self, step: Step) -> np.ndarray | None:
        latents = None
        for each in self._observers:
            replaced = each.on_step(step)
            latents = latents if replaced is None else replaced
        return latents

    def on_progress(self, done: int, total: int) -> None:
        for each in self._observers:
            each.on_progress(done, total)


class StepEndCallback(Observer):
    """Serves diffusers' `callback_on_step_end`: called after each step, may replace the latents.

    `callback(pipe, step, timestep, {"latents": array})` gets [B, H, W, C] float32, channels last,
    and returns a dictionary; sampling continues with its "latents".
    """

    def __init__(self, pipe: object, callback: Callable[..., Mapping[str, Any] | None]):
        self._pipe, self._callback = pipe, callback

    def on_step(self, step: Step) -> np.ndarray | None:
        given = {"latents": step.latents}
        returned = self._callback(self._pipe, step.index, float(step.timesteps.max()), given)
        if returned is None:
            return None
        if not isinstance(returned, Mapping):
            raise InputError(
                f"callback_on_step_end returned a {type(returned).__name__}: expected a dictionary "
                "such as the one it is given, or None"
            )
        # Even the array that was passed may have been changed in place.
        return returned.get("latents")
