"""Every layer of SDXL is found under each of its names."""

import functools

import pytest

from instantid_jax.components import network
from instantid_jax.weights import sdxl_base
from instantid_jax.weights.lora.spellings import PARTS, spellings
from tests.convert.published import UNET


@functools.cache
def sdxl():
    return spellings({part: network(part, sdxl_base.SETTINGS[part]) for part in PARTS})


def test_the_unets_794_matrices_and_convolutions_have_both_kohya_names():
    kohya = {name: t for name, t in sdxl().items() if name.startswith("lora_unet_")}
    kohya = {name: target for name, target in kohya.items() if not target.is_norm}
    blocks = ("down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out", "time_emb", "add_emb")
    theirs = {
        n: t for n, t in kohya.items() if n.startswith(tuple(f"lora_unet_{b}" for b in blocks))
    }
    originals = {name: target for name, target in kohya.items() if name not in theirs}
    # `time_embed_0` of the original layout begins like `time_embedding_linear_1`.
    moved = [name for name in theirs if name.startswith("lora_unet_time_embed_")]
    originals |= {name: theirs.pop(name) for name in moved}
    assert len(theirs) == len(originals) == 794
    assert set(theirs.values()) == set(originals.values())


def test_the_text_encoders_have_72_and_192_matrices_in_their_layers():
    for prefix, count in (("lora_te1_", 72), ("lora_te2_", 192)):
        layers = {
            n: t for n, t in sdxl().items() if n.startswith(f"{prefix}text_model_encoder_layers")
        }
        assert len({t for t in layers.values() if not t.is_norm}) == count
    assert sdxl()["lora_te2_text_projection"].shape == (1280, 1280)


# Weight, and the names that files give it.
NAMES = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.kernel": (
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora",
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k",
        "lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
    ),
    "mid_block.attentions.0.transformer_blocks.9.attn1.to_out.0.kernel": (
        "lora_unet_middle_block_1_transformer_blocks_9_attn1_to_out_0",
        "unet.mid_block.attentions.0.transformer_blocks.9.attn1.processor.to_out_lora",
    ),
    "up_blocks.1.upsamplers.0.conv.kernel": (
        "lora_unet_output_blocks_5_2_conv",
        "lora_unet_up_blocks_1_upsamplers_0_conv",
    ),
    "down_blocks.0.resnets.1.time_emb_proj.kernel": ("lora_unet_input_blocks_2_0_emb_layers_1",),
    "conv_norm_out.scale": ("lora_unet_out_0", "unet.conv_norm_out"),
    "text_model.encoder.layers.3.self_attn.out_proj.kernel": (
        "lora_te1_text_model_encoder_layers_3_self_attn_out_proj",
        "text_encoder.text_model.encoder.layers.3.self_attn.out_proj",
        "text_encoder.encoder.layers.3.self_attn.out_proj",
        "text_encoder.text_model.encoder.layers.3.self_attn.to_out_lora",
    ),
}


@pytest.mark.parametrize("weight", NAMES)
def test_a_layer_is_found_under_all_its_names(weight):
    assert {sdxl()[name].weight for name in NAMES[weight]} == {weight}


def test_layers_of_instantid_have_no_names():
    assert not any("_ip" in target.weight for target in sdxl().values())
    assert not any(target.part not in PARTS for target in sdxl().values())


def test_other_sizes_have_names_of_their_own():
    small = {part: network(part, sdxl_base.SETTINGS[part]) for part in PARTS}
    small["unet"] = network("unet", UNET)
    found = spellings(small)
    wanted = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.kernel"
    assert found["lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_k"].weight == wanted
