"""Every setting that diffusers' networks take is read by us, or refused, or changes no number."""

import dataclasses
import inspect

import pytest
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from instantid_jax.models import controlnet, unet, vae

# Precision and memory, or read only together with a setting that is refused.
WITHOUT_EFFECT = {
    "unet": {
        "sample_size",
        "upcast_attention",
        "addition_embed_type_num_heads",  # of addition_embed_type "text"
    },
    "controlnet": {"upcast_attention", "addition_embed_type_num_heads"},
    "vae": {"sample_size", "force_upcast"},
}
# Where our default is SDXL's: a file without the setting has weights of other shapes, or a number
# that no SDXL checkpoint means.
SDXLS = {
    "attention_head_dim",
    "block_out_channels",
    "cross_attention_dim",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "down_block_types",
    "up_block_types",
    "layers_per_block",
    "transformer_layers_per_block",
    "norm_num_groups",
    "sample_size",
    "scaling_factor",
    "conditioning_embedding_out_channels",
}
NETWORKS = {
    "unet": (UNet2DConditionModel, unet.UNetConfig, unet.UNET_ONLY),
    "controlnet": (
        ControlNetModel,
        controlnet.ControlNetConfig,
        unet.ENCODER_ONLY | {"global_pool_conditions": False},
    ),
    "vae": (AutoencoderKL, vae.VAEConfig, vae.ONLY),
}


def signature(theirs):
    parameters = inspect.signature(theirs.__init__).parameters
    return {name: p.default for name, p in parameters.items() if name != "self"}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_setting_is_overlooked(name):
    theirs, ours, only = NETWORKS[name]
    fields = {field.name for field in dataclasses.fields(ours)}
    known = fields | set(only) | WITHOUT_EFFECT[name]
    assert set(signature(theirs)) - known == set()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_missing_setting_means_what_it_means_to_diffusers(name):
    theirs, ours, _ = NETWORKS[name]
    defaults = signature(theirs)
    for field in dataclasses.fields(ours):
        if field.name not in SDXLS:
            assert field.default == defaults[field.name], field.name


@pytest.mark.parametrize("name", NETWORKS)
def test_supported_values_of_fixed_settings_are_those_of_sdxl(name):
    """A setting that is absent takes diffusers' default, which must be what we compute."""
    theirs, _, only = NETWORKS[name]
    defaults = signature(theirs)
    # Without these two, the weights have other names or shapes, which is an error.
    told_by_shapes = {"use_linear_projection", "addition_embed_type"}
    for key, supported in only.items():
        if key in defaults and key not in told_by_shapes:
            allowed = supported if isinstance(supported, tuple) else (supported,)
            assert defaults[key] in allowed, key
