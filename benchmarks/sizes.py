"""Network settings of each model size. IdentityNet's follow from the UNet's."""

from collections.abc import Mapping
from typing import Any

from configs.miniature import get_config
from instantid_jax.components import network
from instantid_jax.models.controlnet import settings_like_unet
from instantid_jax.weights import sdxl_base
from miniature.base import architecture
from train.networks import Networks

SMALL = {
    "unet": architecture.UNET,
    "vae": architecture.VAE,
    "text_encoder": architecture.TEXT_ENCODER,
    "text_encoder_2": architecture.TEXT_ENCODER_2,
    "image_proj": vars(get_config().model.resampler),
}
# SDXL base.
FULL = {name: {"image_proj": {}, **sdxl_base.SETTINGS}[name] for name in SMALL}


def training_networks(settings: Mapping[str, Mapping[str, Any]]) -> Networks:
    """The networks of training.

    Args:
      settings: `FULL` or `SMALL`.
    """
    settings = {**settings, "controlnet": settings_like_unet(settings["unet"])}
    return Networks(**{name: network(name, each) for name, each in settings.items()})
