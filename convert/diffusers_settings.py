"""Settings as diffusers reads them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from instantid_jax.models.unet import EncoderConfig


def diffusers_settings(settings: Mapping[str, Any], config: EncoderConfig) -> dict[str, Any]:
    """The `config.json` of a UNet or ControlNet with nothing left out that decides its shape.

    diffusers' own defaults are SD 1's; ours, which stand for what is left out, are SDXL's.

    Args:
      settings: the `config.json` as it is.
      config: what was read from it.
    """
    return {
        "addition_embed_type": "text_time",
        "use_linear_projection": True,
        **dataclasses.asdict(config),
        **settings,
    }
