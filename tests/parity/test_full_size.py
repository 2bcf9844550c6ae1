"""SDXL and InstantID at full size, in names and shapes: nothing is allocated."""

import math

import pytest
import torch
from diffusers import AutoencoderKL as TorchVAE
from diffusers import ControlNetModel as TorchControlNet
from diffusers import UNet2DConditionModel as TorchUNet
from transformers import CLIPTextConfig as TorchCLIPTextConfig
from transformers import CLIPTextModel as TorchCLIPTextModel
from transformers import CLIPTextModelWithProjection

from instantid_jax.models.clip import CLIPTextConfig, CLIPTextModel
from instantid_jax.models.controlnet import ControlNetConfig, ControlNetModel
from instantid_jax.models.resampler import Resampler, ResamplerConfig
from instantid_jax.models.unet import UNet2DConditionModel, UNetConfig
from instantid_jax.models.vae import AutoencoderKL, VAEConfig
from instantid_jax.params import Network
from instantid_jax.weights.names import adapter_layers, torch_name
from tests.parity import reference

# SDXL base 1.0's config.json files, as far as they tell sizes.
ENCODER = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
UNET = ENCODER | {"up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "scaling_factor": 0.13025,
}
TEXT_ENCODER = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "eos_token_id": 2,
}
TEXT_ENCODER_2 = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
    "eos_token_id": 2,
}


NETWORKS = {
    "unet": (Network(UNet2DConditionModel, UNetConfig.from_json(UNET)), TorchUNet, UNET),
    "controlnet": (
        Network(ControlNetModel, ControlNetConfig.from_json(ENCODER)),
        TorchControlNet,
        ENCODER,
    ),
    "vae": (Network(AutoencoderKL, VAEConfig.from_json(VAE)), TorchVAE, VAE),
    "text_encoder": (
        Network(CLIPTextModel, CLIPTextConfig.from_json(TEXT_ENCODER)),
        lambda **settings: TorchCLIPTextModel(TorchCLIPTextConfig(**settings)),
        TEXT_ENCODER,
    ),
    "text_encoder_2": (
        Network(
            CLIPTextModel,
            CLIPTextConfig.from_json(
                TEXT_ENCODER_2 | {"architectures": ["CLIPTextModelWithProjection"]}
            ),
        ),
        lambda **settings: CLIPTextModelWithProjection(TorchCLIPTextConfig(**settings)),
        TEXT_ENCODER_2,
    ),
    "resampler": (Network(Resampler, ResamplerConfig()), reference.Resampler, {}),
}
COUNTS = {
    "unet": 2_567_463_684,
    "controlnet": 1_251_014_160,
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
    "text_encoder_2": 694_659_840,
    "resampler": 81_978_624,
}


def torch_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Our parameters' shapes, under torch's names and in its layouts."""
    shapes = {}
    for name, leaf in network.shapes.items():
        torchs, axes = torch_name(name, len(leaf.shape))
        shapes[torchs] = tuple(leaf.shape[axes.index(i)] for i in range(len(axes)))
    return shapes


def is_adapter(name: str) -> bool:
    return "_ip." in name


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes_equal_torchs(name):
    network, make, settings = NETWORKS[name]
    with torch.device("meta"):
        state = make(**settings).state_dict()
    if name == "text_encoder":
        state = reference.with_text_model_prefix(state)
    theirs = {key: tuple(tensor.shape) for key, tensor in state.items()}
    ours = {key: shape for key, shape in torch_shapes(network).items() if not is_adapter(key)}
    assert ours == theirs
    assert sum(math.prod(shape) for shape in ours.values()) == COUNTS[name]


@pytest.mark.parametrize("name", ["unet", "controlnet", "vae", "text_encoder", "resampler"])
def test_defaults_are_the_published_sizes(name):
    network, _, _ = NETWORKS[name]
    assert Network(network.module, type(network.config)()).shapes == network.shapes


def test_adapter_holds_keys_and_values_of_seventy_layers():
    shapes = {k: s for k, s in torch_shapes(NETWORKS["unet"][0]).items() if is_adapter(k)}
    assert len(shapes) == 2 * 70
    assert sum(math.prod(shape) for shape in shapes.values()) == 340_787_200


def test_adapter_layers_are_numbered_as_torch_registers_them():
    with torch.device("meta"):
        unet = TorchUNet(**UNET)
    processors = [name.removesuffix(".processor") for name in unet.attn_processors]
    names = list(NETWORKS["unet"][0].shapes)
    assert adapter_layers(names) == processors[1::2]
    assert adapter_layers(sorted(names)) == processors[1::2]
