"""The Image Adapter: how strongly each of its layers counts, and at which steps."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.models.unet import UNetConfig
from instantid_jax.pipeline.conditions.control import inside_window
from instantid_jax.request.block_scales import Blocks, BlockScales
from instantid_jax.request.request import Request


@dataclasses.dataclass(frozen=True, eq=False)
class AdapterInputs:
    """Strengths of the Image Adapter for B requests.

    Attributes:
      scales: [B, transformers] float32, in order of the UNet's.
      windows: [T, rows] float32, 1 at the steps at which it counts, else 0; T is the largest number
        of steps. With guidance the negative rows come first.
    """

    scales: np.ndarray
    windows: np.ndarray


def resolve_adapter(
    config: UNetConfig, requests: Sequence[Request], steps: Sequence[int], guidance: bool
) -> AdapterInputs:
    """Finds the strength of each layer and step.

    Args:
      requests: of equally many images each.
      steps: number of steps of each request's sampler.
    Raises:
      InputError: for a block that the UNet does not have, or another number of strengths.
    """
    scales = [transformer_scales(config, request.ip_adapter_scale) for request in requests]
    windows = np.zeros((max(steps), len(requests)), np.float32)
    for j, (request, own) in enumerate(zip(requests, steps, strict=True)):
        window = np.array([request.ip_adapter_start]), np.array([request.ip_adapter_end])
        windows[:own, j] = inside_window(own, *window)[:, 0]
    images = np.repeat(windows, requests[0].num_images_per_prompt, axis=1)
    return AdapterInputs(np.array(scales, np.float32), np.tile(images, 2 if guidance else 1))


def transformer_scales(config: UNetConfig, given: float | Blocks) -> list[float]:
    """The strength in each transformer; blocks that are not named have 0.

    Args:
      given: one for all, or of blocks: {"down": 0.5, "up": {"block_0": (0.0, 1.0, 0.0)}}.
    Source: diffusers/loaders/unet_loader_utils.py:_maybe_expand_lora_scales, as
      UNet.set_ip_adapter_scale calls it.
    """
    transformers = config.transformers
    if not isinstance(given, BlockScales):
        return [cast(float, given)] * sum(transformers.values())
    for part, blocks in given.items():
        for block in blocks if isinstance(blocks, Mapping) else ():
            if f"{part}.{block}" not in transformers:
                raise InputError(
                    f"ip_adapter_scale names {part}.{block}, which has no attention: expected "
                    f"{', '.join(transformers)}"
                )
    scales: list[float] = []
    for name, count in transformers.items():
        part, _, block = name.partition(".")
        value = given.get(part, 0.0)
        if isinstance(value, Mapping):
            value = value.get(block, 0.0)
        values = value if isinstance(value, tuple) else (value,) * count
        if len(values) != count:
            raise InputError(
                f"ip_adapter_scale has {len(values)} strengths for {name}, which has {count} "
                f"transformers: give one number, or {count}"
            )
        scales += values
    return scales
