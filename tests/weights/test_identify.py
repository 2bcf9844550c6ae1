"""Identification by names and shapes of published files and of diffusers' classes."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    ControlNetUnionModel,
    FluxTransformer2DModel,
    MotionAdapter,
    SD3Transformer2DModel,
    StableCascadeUNet,
    T2IAdapter,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from instantid_jax.weights.identify import identify, kind_of
from instantid_jax.weights.tensors import LazyTensor

ORIGINAL = "(one file, original layout)"
UNET = "model.diffusion_model.input_blocks"
SD_UNET = {
    f"{UNET}.0.0.weight": (320, 4, 3, 3),
    f"{UNET}.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
}
SDXL_UNET = {
    f"{UNET}.0.0.weight": (320, 4, 3, 3),
    f"{UNET}.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
    "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
}
CLIP_L = "transformer.text_model.embeddings.token_embedding.weight"
SDXL = SDXL_UNET | {
    "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
    f"conditioner.embedders.0.{CLIP_L}": (49408, 768),
    "conditioner.embedders.1.model.token_embedding.weight": (49408, 1280),
}
ADAPTER = {
    "image_proj.latents": (1, 16, 1280),
    "image_proj.proj_in.weight": (1280, 512),
    "ip_adapter.1.to_k_ip.weight": (640, 2048),
}
# What is in the file -> how it is called, and what takes it here.
PUBLISHED = {
    "SDXL": (SDXL, f"an SDXL checkpoint {ORIGINAL}", "sdxl"),
    "SDXL with EMA and markers": (
        SDXL | {"model_ema.decay": (), "v_pred": (0,), "ztsnr": (0,)},
        f"an SDXL checkpoint {ORIGINAL}",
        "sdxl",
    ),
    "SDXL inpainting": (
        SDXL | {f"{UNET}.0.0.weight": (320, 9, 3, 3)},
        f"an SDXL inpainting checkpoint {ORIGINAL}",
        "sdxl",
    ),
    "SDXL image editing": (
        SDXL | {f"{UNET}.0.0.weight": (320, 8, 3, 3)},
        f"an SDXL image editing checkpoint {ORIGINAL}",
        None,
    ),
    "SDXL without a VAE": (
        {n: s for n, s in SDXL.items() if "first_stage" not in n},
        f"an SDXL checkpoint {ORIGINAL}",
        "sdxl",
    ),
    "SDXL without text encoder 2": (
        {n: s for n, s in SDXL.items() if "embedders.1" not in n},
        f"an SDXL checkpoint without text encoder 2 {ORIGINAL}",
        "unet",
    ),
    "SDXL without text encoder 1": (
        {n: s for n, s in SDXL.items() if "embedders.0" not in n},
        f"an SDXL checkpoint without text encoder 1 {ORIGINAL}",
        "unet",
    ),
    "a moving average alone": (
        {
            "model_ema.diffusion_modelinput_blocks00weight": (320, 4, 3, 3),
            "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
        },
        "a checkpoint with its UNet's moving average (model_ema) instead of the UNet",
        None,
    ),
    "moving averages alone": (
        {"ema.conv_in.weight": (320, 4, 3, 3), "ema.conv_in.bias": (320,)},
        "moving averages of weights, without the weights themselves",
        None,
    ),
    "SDXL's UNet alone": (
        SDXL_UNET,
        "an SDXL UNet in the original layout, without the rest",
        "unet",
    ),
    "SDXL's UNet alone, without a prefix": (
        {n.removeprefix("model.diffusion_model."): s for n, s in SDXL_UNET.items()}
        | {"output_blocks.0.0.in_layers.0.weight": (2560,)},
        "an SDXL UNet in the original layout, without the rest",
        "unet",
    ),
    "SD 1.5's UNet and VAE": (
        SD_UNET,
        "an SD 1.x UNet in the original layout, without text encoders",
        None,
    ),
    "SDXL refiner": (
        {
            f"{UNET}.0.0.weight": (384, 4, 3, 3),
            f"{UNET}.4.1.transformer_blocks.0.attn2.to_k.weight": (768, 1280),
            "model.diffusion_model.label_emb.0.0.weight": (1536, 2560),
            "conditioner.embedders.0.model.token_embedding.weight": (49408, 1280),
        },
        f"an SDXL refiner checkpoint {ORIGINAL}",
        "refiner",
    ),
    "SD 1.5": (
        SD_UNET | {f"cond_stage_model.{CLIP_L}": (49408, 768)},
        f"an SD 1.x checkpoint {ORIGINAL}",
        None,
    ),
    "SD 1.5 inpainting": (
        SD_UNET
        | {f"{UNET}.0.0.weight": (320, 9, 3, 3), f"cond_stage_model.{CLIP_L}": (49408, 768)},
        f"an SD 1.x inpainting checkpoint {ORIGINAL}",
        None,
    ),
    "SD 2.1": (
        SD_UNET | {"cond_stage_model.model.token_embedding.weight": (49408, 1024)},
        f"an SD 2.x checkpoint {ORIGINAL}",
        None,
    ),
    "Stable Video Diffusion": (
        {
            f"{UNET}.0.0.weight": (320, 8, 3, 3),
            "conditioner.embedders.0.open_clip.model.ln_final.weight": (1024,),
        },
        f"a Stable Video Diffusion checkpoint {ORIGINAL}",
        None,
    ),
    "SD 3": (
        {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)},
        "an SD 3 or FLUX checkpoint (one file)",
        None,
    ),
    "FLUX, transformer alone": (
        {"double_blocks.0.img_attn.qkv.weight": (9216, 3072), "img_in.weight": (3072, 64)},
        "a diffusion transformer (SD 3, FLUX or similar)",
        None,
    ),
    "ControlNet, original": (
        {n.replace("model.diffusion_model", "control_model"): s for n, s in SDXL_UNET.items()},
        "an SDXL ControlNet (original layout)",
        "controlnet",
    ),
    "ControlNet, original, without a prefix": (
        {
            "input_hint_block.0.weight": (16, 3, 3, 3),
            "zero_convs.0.0.weight": (320, 320, 1, 1),
            "label_emb.0.0.weight": (1280, 2816),
        },
        "an SDXL ControlNet (original layout)",
        "controlnet",
    ),
    "ControlNet of SD 1.x, original": (
        {n.replace("model.diffusion_model", "control_model"): s for n, s in SD_UNET.items()},
        "an SD 1.x ControlNet (original layout)",
        None,
    ),
    "ControlNet-LLLite": (
        {"lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k.down.0.weight": (64, 640)},
        "a ControlNet-LLLite (use a whole ControlNet instead)",
        None,
    ),
    "InstantID, as a training program saves it": (
        {
            name.replace("image_proj.", "image_proj_model.").replace(
                "ip_adapter.", "adapter_modules."
            ): shape
            for name, shape in ADAPTER.items()
        }
        | {"unet.conv_in.weight": (320, 4, 3, 3)},
        "an InstantID adapter",
        "instantid",
    ),
    "PuLID": (
        {
            "id_adapter.latents": (1, 32, 1024),
            "id_adapter_attn_layers.1.id_to_k.weight": (640, 2048),
        },
        "a PuLID adapter",
        None,
    ),
    "PhotoMaker": (
        {"id_encoder.visual_projection_2.weight": (1280, 1024)},
        "a PhotoMaker adapter",
        None,
    ),
    "T2I-Adapter": (
        {"adapter.body.0.in_conv.weight": (320, 256, 1, 1)},
        "a T2I-Adapter (use a ControlNet instead)",
        None,
    ),
    "CLIP's image encoder": (
        {"vision_model.embeddings.class_embedding": (1280,)},
        "a CLIP image encoder",
        None,
    ),
    "InstantID": (ADAPTER, "an InstantID adapter", "instantid"),
    "InstantID for another recognizer": (
        ADAPTER | {"image_proj.proj_in.weight": (1280, 96)},
        "an InstantID adapter for face embeddings of 96 numbers",
        "instantid",
    ),
    "IP-Adapter Plus, SDXL": (
        ADAPTER | {"image_proj.proj_in.weight": (1280, 1280)},
        "an IP-Adapter Plus (for CLIP's image embeddings, 1280 numbers)",
        None,
    ),
    "IP-Adapter": (
        {"image_proj.proj.weight": (8192, 1280), "ip_adapter.1.to_k_ip.weight": (640, 2048)},
        "an IP-Adapter (for CLIP's image embeddings)",
        None,
    ),
    "IP-Adapter FaceID": (
        {"image_proj.proj.0.weight": (1024, 512), "ip_adapter.0.to_q_lora.down.weight": (128, 640)},
        "an IP-Adapter FaceID",
        None,
    ),
    "IP-Adapter FaceID Plus": (
        {
            "image_proj.proj.0.weight": (1024, 512),
            "image_proj.perceiver_resampler.proj_in.weight": (2048, 1280),
            "ip_adapter.0.to_q_lora.down.weight": (128, 640),
        },
        "an IP-Adapter FaceID Plus",
        None,
    ),
    "half an adapter": (
        {"ip_adapter.1.to_k_ip.weight": (640, 2048)},
        "keys and values of an adapter without its image_proj",
        None,
    ),
    "LoRA, kohya": (
        {"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": (32, 640)},
        "a LoRA",
        "lora",
    ),
    "LoRA, diffusers": (
        {"unet.down_blocks.1.attentions.0.proj_in.lora.down.weight": (32, 640)},
        "a LoRA",
        "lora",
    ),
    "LoRA, peft": (
        {"unet.down_blocks.1.attentions.0.proj_in.lora_A.weight": (32, 640)},
        "a LoRA",
        "lora",
    ),
    "LyCORIS": (
        {"lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_a": (768, 8)},
        "a LoRA",
        "lora",
    ),
    "LoRA of SDXL": (
        {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (8, 2048)},
        "a LoRA of SDXL",
        "lora",
    ),
    "LoRA of SD 1.x, LoHa": (
        {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v.hada_w1_b": (8, 768)},
        "a LoRA of SD 1.x",
        None,
    ),
    "LoRA of SD 2.x, processors": (
        {
            "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_v_lora.down.weight": (
                4,
                1024,
            )
        },
        "a LoRA of SD 2.x",
        None,
    ),
    "LoRA of Stable Cascade": (
        {"lora_prior_unet_down_blocks_0_0_channelwise_0.lora_down.weight": (4, 8)},
        "a LoRA of Stable Cascade",
        None,
    ),
    "Control-LoRA": (
        {
            "lora_controlnet": (),
            "input_blocks.0.0.up": (320, 128),
            "input_hint_block.0.weight": (16, 3, 3, 3),
            "zero_convs.0.0.weight": (320, 320, 1, 1),
        },
        "a Control-LoRA (a change to the UNet; use a whole ControlNet instead)",
        None,
    ),
    "textual inversion": (
        {"clip_l": (4, 768), "clip_g": (4, 1280)},
        "an SDXL textual inversion",
        "embedding",
    ),
    "textual inversion of older pivotal tuning": (
        {"text_encoders_0": (2, 768), "text_encoders_1": (2, 1280)},
        "an SDXL textual inversion",
        "embedding",
    ),
    "textual inversions of OneTrainer": (
        {"bundle_emb.<a>.clip_l": (1, 768), "bundle_emb.<a>.clip_g": (1, 1280)},
        "an SDXL textual inversion",
        "embedding",
    ),
    "textual inversion, SD 1.5, web UI": (
        {"string_to_token.*": (), "string_to_param.*": (2, 768)},
        "an SD 1.x textual inversion, or one for text encoder 1 alone",
        None,
    ),
    "textual inversion, SD 2.1": ({"emb_params": (8, 1024)}, "an SD 2.x textual inversion", None),
    "textual inversion, SD 1.5, diffusers": (
        {"<cat-toy>": (768,)},
        "an SD 1.x textual inversion, or one for text encoder 1 alone",
        None,
    ),
    "half of a textual inversion": (
        {"clip_g": (2, 1280)},
        "a textual inversion for text encoder 2 alone",
        None,
    ),
    "textual inversion, SD 3": (
        {"clip_l": (1, 768), "clip_g": (1, 1280), "t5xxl": (1, 4096)},
        "an SD 3 or FLUX textual inversion",
        None,
    ),
    "one large tensor": (
        {"weight": (4096, 768)},
        "a file of 1 tensors of another kind (weight, ...)",
        None,
    ),
    "VAE, original": (
        {"encoder.down.0.block.0.conv1.weight": (128, 128, 3, 3)},
        "a VAE (original layout)",
        "vae",
    ),
    "insightface in torch": (
        {"conv1.weight": (64, 3, 3, 3), "bn1.weight": (64,)},
        "a file of 2 tensors of another kind (conv1.weight, bn1.weight, ...)",
        None,
    ),
    "nothing": ({}, "a file without tensors", None),
}
SMALL = {
    "block_out_channels": (8, 8),
    "norm_num_groups": 2,
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
}
UPS = {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
VAE = {"block_out_channels": (8,), "norm_num_groups": 2}
CLIP = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def sdxl(text=2048, added=2816):
    return SMALL | {
        "cross_attention_dim": text,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": added,
        "use_linear_projection": True,
    }


# Networks of diffusers and transformers: small, with the widths that tell base models apart.
CLASSES = {
    "SDXL UNet": (UNet2DConditionModel, sdxl() | UPS, "an SDXL UNet (diffusers layout)", "unet"),
    "small UNet": (
        UNet2DConditionModel,
        sdxl(768, 300) | UPS,
        "a 768-wide UNet (diffusers layout)",
        "unet",
    ),
    "SDXL inpainting UNet": (
        UNet2DConditionModel,
        sdxl() | UPS | {"in_channels": 9},
        "an SDXL inpainting UNet (diffusers layout)",
        "unet",
    ),
    "SDXL image editing UNet": (
        UNet2DConditionModel,
        sdxl() | UPS | {"in_channels": 8},
        "an SDXL image editing UNet (diffusers layout)",
        None,
    ),
    "UNet of a VAE with 8 channels": (
        UNet2DConditionModel,
        sdxl() | UPS | {"in_channels": 8, "out_channels": 8},
        "an SDXL UNet (diffusers layout)",
        "unet",
    ),
    "refiner UNet": (
        UNet2DConditionModel,
        sdxl(1280, 2560) | UPS,
        "an SDXL refiner UNet (diffusers layout)",
        "refiner",
    ),
    "SD 1.5 UNet": (
        UNet2DConditionModel,
        SMALL | UPS | {"cross_attention_dim": 768},
        "an SD 1.x UNet (diffusers layout)",
        None,
    ),
    "SD 2.1 UNet": (
        UNet2DConditionModel,
        SMALL | UPS | {"cross_attention_dim": 1024},
        "an SD 2.x UNet (diffusers layout)",
        None,
    ),
    "SDXL ControlNet": (
        ControlNetModel,
        sdxl(),
        "an SDXL ControlNet (diffusers layout)",
        "controlnet",
    ),
    "SD 1.5 ControlNet": (
        ControlNetModel,
        SMALL | {"cross_attention_dim": 768},
        "an SD 1.x ControlNet (diffusers layout)",
        None,
    ),
    "union ControlNet": (
        ControlNetUnionModel,
        sdxl()
        | {
            "num_control_type": 2,
            "num_trans_channel": 8,
            "num_trans_head": 1,
            "num_trans_layer": 1,
        },
        "an SDXL union ControlNet (diffusers layout)",
        None,
    ),
    "VAE": (AutoencoderKL, VAE, "a VAE (diffusers layout)", "vae"),
    "VAE of FLUX": (
        AutoencoderKL,
        VAE | {"latent_channels": 16},
        "a VAE with 16 latent channels (diffusers layout)",
        "vae",
    ),
    "CLIP-L": (
        CLIPTextModel,
        {"config": CLIPTextConfig(**CLIP)},
        "a CLIP text encoder",
        "text_encoder",
    ),
    "CLIP-bigG": (
        CLIPTextModelWithProjection,
        {"config": CLIPTextConfig(**CLIP)},
        "a CLIP text encoder with a projection",
        "text_encoder_2",
    ),
    "whole CLIP": (
        CLIPModel,
        {"config": CLIPConfig(text_config=CLIP, vision_config=CLIP)},
        "a whole CLIP model (text and images)",
        None,
    ),
    "SD 3": (
        SD3Transformer2DModel,
        {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 8},
        "a diffusion transformer (SD 3, FLUX or similar)",
        None,
    ),
    "FLUX": (
        FluxTransformer2DModel,
        {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1},
        "a diffusion transformer (SD 3, FLUX or similar)",
        None,
    ),
}
NAMED = {
    "motion module": ("a motion module",),
    "T2I adapter": ("a T2I-Adapter",),
    "tiny VAE": ("a tiny VAE",),
}
# What is only not to be taken for something else.
OTHERS = {
    "motion module": (MotionAdapter, {"block_out_channels": (32,)}),
    "T2I adapter": (T2IAdapter, {"channels": (8,), "num_res_blocks": 1}),
    "tiny VAE": (AutoencoderTiny, {}),
    "Stable Cascade": (
        StableCascadeUNet,
        {
            "block_out_channels": (8,),
            "num_attention_heads": (1,),
            "down_num_layers_per_block": (1,),
            "up_num_layers_per_block": (1,),
            "down_blocks_repeat_mappers": (1,),
            "up_blocks_repeat_mappers": (1,),
            "block_types_per_layer": (("SDCascadeResBlock",),),
            "kernel_size": 3,
            "dropout": (0.0,),
            "self_attn": False,
            "timestep_conditioning_type": ("sca",),
            "switch_level": None,
        },
    ),
}


def tensors(shapes):
    def unread():
        raise AssertionError("a value was read")

    return {name: LazyTensor(tuple(s), np.dtype("float32"), unread) for name, s in shapes.items()}


def shapes_of(cls, settings):
    with torch.device("meta"):
        state = cls(**settings).state_dict()
    return {name: tensor.shape for name, tensor in state.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_called_what_they_are(name):
    shapes, phrase, part = PUBLISHED[name]
    kind = kind_of(tensors(shapes))
    assert (kind.phrase, kind.part) == (phrase, part)
    assert identify(tensors(shapes)) == phrase


@pytest.mark.parametrize("name", CLASSES)
def test_networks_of_diffusers_are_called_what_they_are(name):
    cls, settings, phrase, part = CLASSES[name]
    kind = kind_of(tensors(shapes_of(cls, settings)))
    assert (kind.phrase, kind.part) == (phrase, part)


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_taken_for_nothing_else(name):
    kind = kind_of(tensors(shapes_of(*OTHERS[name])))
    assert kind.part is None and kind.phrase.startswith(("a file of", *NAMED.get(name, ()))), kind
