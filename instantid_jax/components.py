"""The components of an InstantID model, independent of how they are stored."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from instantid_jax.errors import InputError
from instantid_jax.models.clip import CLIPTextConfig, CLIPTextModel
from instantid_jax.models.config import per_block
from instantid_jax.models.controlnet import ControlNetConfig, ControlNetModel
from instantid_jax.models.resampler import Resampler, ResamplerConfig
from instantid_jax.models.unet import (
    EncoderConfig,
    RefinerUNet,
    UNet2DConditionModel,
    UNetConfig,
)
from instantid_jax.models.vae import AutoencoderKL, VAEConfig
from instantid_jax.params import Network, Params

# Components of every model. Additional ControlNets are `controlnets.0`, `controlnets.1`, ..., and
# the UNet of SDXL's refiner is `refiner`.
REQUIRED = (
    "unet",
    "ip_adapter",
    "image_proj",
    "controlnet",
    "vae",
    "text_encoder",
    "text_encoder_2",
)


@dataclasses.dataclass(frozen=True)
class Component:
    """One set of weights with its configuration.

    Attributes:
      network: the network of the weights. `ip_adapter` is part of the UNet's network.
      settings: the network's `config.json`.
      load: reads the parameters in the given dtype; None keeps each tensor's dtype. For SDXL's
        networks, a second argument names the parameters to read.
      source: origin of the weights, for messages.
    """

    network: Network
    settings: Mapping[str, Any]
    load: Callable[..., Params]
    source: str


@dataclasses.dataclass(frozen=True)
class BaseSource:
    """SDXL, located but not loaded.

    Attributes:
      components: the networks of SDXL; in `ModelSource`, all networks.
      scheduler: contents of `scheduler_config.json`.
      tokenizers: tokenizer folders of text encoders 1 and 2.
      force_zeros_for_empty_prompt: whether the embedding of no negative prompt is zeros.
      guidance_scale: the model's default; None is SDXL's.
      sides: the least and the largest side of its training images in pixels; None is unknown.
    """

    components: Mapping[str, Component]
    scheduler: Mapping[str, Any]
    tokenizers: tuple[Path, Path]
    force_zeros_for_empty_prompt: bool = True
    guidance_scale: float | None = None
    sides: tuple[int, int] | None = None

    def with_parts(self, parts: Mapping[str, Component]) -> "ModelSource":
        """This base with InstantID's parts."""
        return ModelSource(
            {**self.components, **parts},
            self.scheduler,
            self.tokenizers,
            self.force_zeros_for_empty_prompt,
            self.guidance_scale,
            self.sides,
        )


@dataclasses.dataclass(frozen=True)
class ModelSource(BaseSource):
    """Everything sampling needs, located but not loaded; components keyed by `REQUIRED`."""

    def __post_init__(self):
        check_fit({name: part.network for name, part in self.components.items()})

    @property
    def controlnets(self) -> list[str]:
        """Names of the ControlNets, IdentityNet first."""
        further = sorted(
            (name for name in self.components if name.startswith("controlnets.")),
            key=lambda name: int(name.partition(".")[2]),
        )
        return ["controlnet", *further]


def network(component: str, settings: Mapping[str, Any]) -> Network:
    """The network of a component, from its `config.json`."""
    if component == "unet":
        return Network(UNet2DConditionModel, UNetConfig.from_json(settings))
    if component == "refiner":
        return Network(RefinerUNet, UNetConfig.from_json(settings))
    if component == "vae":
        return Network(AutoencoderKL, VAEConfig.from_json(settings))
    if component in ("text_encoder", "text_encoder_2"):
        return Network(CLIPTextModel, CLIPTextConfig.from_json(settings))
    if component == "image_proj":
        return Network(Resampler, ResamplerConfig(**settings))
    return Network(ControlNetModel, ControlNetConfig.from_json(settings))


def is_id_branch(name: str) -> bool:
    """Whether a UNet parameter belongs to the Image Adapter."""
    return name.rpartition(".")[0].endswith(("to_k_ip", "to_v_ip"))


def component_shapes(component: str, network: Network) -> dict[str, jax.ShapeDtypeStruct]:
    """Parameter shapes of a component. The UNet and the adapter share one network."""
    if component not in ("unet", "ip_adapter"):
        return network.shapes
    wanted = component == "ip_adapter"
    return {name: s for name, s in network.shapes.items() if is_id_branch(name) == wanted}


def check_fit(networks: Mapping[str, Network]) -> None:
    """Checks that the components belong together.

    Raises:
      InputError: if they do not, naming the first mismatch.
    """
    unet = networks["unet"].config
    if unet.in_channels not in (unet.out_channels, inpainting_channels(unet)):
        raise InputError(
            f"the UNet takes {unet.in_channels} channels and predicts {unet.out_channels}: image "
            "editing is not supported; use a UNet of SDXL base, or one for inpainting"
        )
    tokens = networks["image_proj"].config.output_dim
    first, second = networks["text_encoder"].config, networks["text_encoder_2"].config
    added = second.projection_dim + 6 * unet.addition_time_embed_dim
    facts = [
        ("the UNet's cross_attention_dim", unet.cross_attention_dim),
        ("the width of the adapter's ID tokens", tokens),
        ("IdentityNet's cross_attention_dim", networks["controlnet"].config.cross_attention_dim),
        ("the text encoders' widths together", first.hidden_size + second.hidden_size),
    ]
    for what, width in facts[1:]:
        if width != facts[0][1]:
            raise InputError(
                f"{what} ({width}) must equal {facts[0][0]} ({facts[0][1]}): these files belong "
                "to different base models; use files made for the same one"
            )
    for name, part in networks.items():
        if name != "unet" and not name.startswith("controlnet"):
            continue
        got = part.config.projection_class_embeddings_input_dim
        if got != added:
            raise InputError(
                f"{name}: projection_class_embeddings_input_dim={got}, expected {added} (text "
                "encoder 2's projection_dim and six time ids); use files made for the same model"
            )
        for key, wanted in _skips(unet).items():
            if _skips(part.config)[key] != wanted:
                raise InputError(
                    f"{name}: {key}={_skips(part.config)[key]}, expected the UNet's {wanted}; use "
                    "a ControlNet made for this UNet"
                )
        if name.startswith("controlnets.") and (
            part.config.cross_attention_dim != unet.cross_attention_dim
        ):
            raise InputError(
                f"{name}: cross_attention_dim={part.config.cross_attention_dim}, expected the "
                f"UNet's {unet.cross_attention_dim}; use a ControlNet made for this UNet"
            )
    if networks["vae"].config.latent_channels != unet.out_channels or (
        networks["vae"].config.downscale != 8
    ):
        raise InputError(
            f"the VAE has {networks['vae'].config.latent_channels} latent channels at 1/"
            f"{networks['vae'].config.downscale} of the size, the UNet expects {unet.out_channels} "
            "at 1/8; use this UNet's VAE"
        )

    if "refiner" in networks:
        _check_refiner(networks["refiner"].config, unet, second)


def _check_refiner(refiner: UNetConfig, unet: UNetConfig, text: CLIPTextConfig) -> None:
    time_ids = 5 * refiner.addition_time_embed_dim
    wanted = {
        "in_channels": unet.out_channels,
        "out_channels": unet.out_channels,
        "cross_attention_dim": text.hidden_size,
        "projection_class_embeddings_input_dim": text.projection_dim + time_ids,
    }
    for key, value in wanted.items():
        if getattr(refiner, key) != value:
            raise InputError(
                f"refiner: {key}={getattr(refiner, key)}, expected {value} (it sees text encoder 2 "
                "alone, and five time ids); use a refiner of SDXL, as refiner="
            )


def inpainting_channels(unet: UNetConfig) -> int:
    """Input channels of a UNet that also takes a mask and the latents of the masked image."""
    return 2 * unet.out_channels + 1


def _skips(config: EncoderConfig) -> dict[str, Any]:
    """The settings that determine a UNet's skips and so a ControlNet's residuals."""
    blocks = len(config.block_out_channels)
    # IdentityNet does not see what an inpainting UNet takes besides noisy latents.
    noisy = config.out_channels if isinstance(config, UNetConfig) else config.in_channels
    return {
        "in_channels": noisy,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": per_block(config.layers_per_block, blocks, "layers_per_block"),
    }
