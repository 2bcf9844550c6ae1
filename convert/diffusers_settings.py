"""Network settings in the form that diffusers reads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from instantid_jax.models.unet import EncoderConfig


def diffusers_settings(settings: Mapping[str, Any], config: EncoderConfig) -> dict[str, Any]:
    """The `config.json` of a UNet or ControlNet, completed with all settings that affect its shape.

    diffusers defaults missing settings to SD 1's; ours default to SDXL's.

    Args:
      settings: the original `config.json`.
      config: the configuration read from it.
    """
    return {
        "addition_embed_type": "text_time",
        "use_linear_projection": True,
        **dataclasses.asdict(config),
        **settings,
    }
