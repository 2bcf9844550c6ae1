"""The parts of an InstantID model, wherever they are stored."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from instantid_jax.errors import InputError
from instantid_jax.models.clip import CLIPTextConfig, CLIPTextModel
from instantid_jax.models.config import per_block
from instantid_jax.models.controlnet import ControlNetConfig, ControlNetModel
from instantid_jax.models.resampler import Resampler, ResamplerConfig
from instantid_jax.models.unet import EncoderConfig, UNet2DConditionModel, UNetConfig
from instantid_jax.models.vae import AutoencoderKL, VAEConfig
from instantid_jax.params import Network, Params

# Components every model has. Further ControlNets are `controlnets.0`, `controlnets.1`, ...
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
      network: what the weights belong to. `ip_adapter` belongs to the UNet, of which it is a part.
      settings: the `config.json` that describes the network.
      load: reads the parameters, in the given dtype or, with None, each in the file's own.
      source: where they come from, for messages.
    """

    network: Network
    settings: Mapping[str, Any]
    load: Callable[[jnp.dtype | None], Params]
    source: str


@dataclasses.dataclass(frozen=True)
class Base:
    """SDXL, found but not loaded.

    Attributes:
      components: its networks, and in `Model` all others.
      scheduler: settings of `scheduler_config.json`.
      tokenizers: folders of the tokenizers of text encoders 1 and 2.
      force_zeros_for_empty_prompt: without a negative prompt, its embedding is zeros.
      guidance_scale: that suits the model; None is SDXL's usual one.
    """

    components: Mapping[str, Component]
    scheduler: Mapping[str, Any]
    tokenizers: tuple[Path, Path]
    force_zeros_for_empty_prompt: bool = True
    guidance_scale: float | None = None

    def with_parts(self, parts: Mapping[str, Component]) -> "Model":
        """The model of this base and InstantID's parts."""
        return Model(
            {**self.components, **parts},
            self.scheduler,
            self.tokenizers,
            self.force_zeros_for_empty_prompt,
            self.guidance_scale,
        )


@dataclasses.dataclass(frozen=True)
class Model(Base):
    """All that sampling needs, found but not loaded; components keyed as `REQUIRED`."""

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
    """Parameters of a component: the UNet's own and the adapter's share one network."""
    if component not in ("unet", "ip_adapter"):
        return network.shapes
    wanted = component == "ip_adapter"
    return {name: s for name, s in network.shapes.items() if is_id_branch(name) == wanted}


def check_fit(networks: Mapping[str, Network]) -> None:
    """Checks that the parts belong together.

    Raises:
      InputError: naming the first two widths that differ.
    """
    unet = networks["unet"].config
    if unet.in_channels != unet.out_channels:
        raise InputError(
            f"the UNet has {unet.in_channels} input and {unet.out_channels} output channels: UNets "
            "for inpainting and image editing are not supported; use one of SDXL base"
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
    if networks["vae"].config.latent_channels != unet.in_channels or (
        networks["vae"].config.downscale != 8
    ):
        raise InputError(
            f"the VAE has {networks['vae'].config.latent_channels} latent channels at 1/"
            f"{networks['vae'].config.downscale} of the size, the UNet expects {unet.in_channels} "
            "at 1/8; use this UNet's VAE"
        )


def _skips(config: EncoderConfig) -> dict[str, Any]:
    """The settings that decide a UNet's skips, to which a ControlNet's residuals are added."""
    blocks = len(config.block_out_channels)
    return {
        "in_channels": config.in_channels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": per_block(config.layers_per_block, blocks, "layers_per_block"),
    }
