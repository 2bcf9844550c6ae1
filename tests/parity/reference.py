"""InstantID in PyTorch, small: the networks of diffusers and transformers, and what they lack.

Our networks and our pipeline are compared with these. Shapes are unlike SDXL's on purpose, and
weights are drawn so that a piece that is missing shows. Nothing here uses our own code.
Arrays at the boundary are float32 numpy, channels last; inside, torch's channels first.
"""

import contextlib
import dataclasses
import inspect
import json
import sys
import unittest.mock
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders.unet_loader_utils import _maybe_expand_lora_scales
from diffusers.pipelines.pag.pag_utils import PAGMixin
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

# Operations of this size are slower on more threads.
torch.set_num_threads(1)

# -- comparing ------------------------------------------------------------------------------------


def relative_error(ours, theirs) -> float:
    """||ours - theirs|| / ||theirs||, L2 over a whole tensor of float32."""
    ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
    assert ours.shape == theirs.shape, f"{ours.shape} and {theirs.shape}"
    difference = np.linalg.norm((ours.astype(np.float64) - theirs).ravel())
    return float(difference / np.linalg.norm(theirs.astype(np.float64).ravel()))


def nchw(array: np.ndarray) -> torch.Tensor:
    """[B, H, W, C] to a torch tensor [B, C, H, W]."""
    return torch.from_numpy(np.array(array, np.float32)).permute(0, 3, 1, 2).contiguous()


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    """A torch tensor [B, C, H, W] to [B, H, W, C]."""
    return tensor.detach().permute(0, 2, 3, 1).contiguous().numpy()


def unit_noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


# -- weights --------------------------------------------------------------------------------------


def fill(module: nn.Module, seed: int) -> nn.Module:
    """Draws every weight: unit gain, norm scales 1 ± 0.1, biases ± 0.1; nothing stays zero.

    Returns the module, in evaluation mode and without gradients.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(shape):
        return 0.2 * torch.rand(shape, generator=generator) - 0.1

    filled = set()
    with torch.no_grad():
        for part in module.modules():
            for name, weight in part.named_parameters(recurse=False):
                if isinstance(part, nn.GroupNorm | nn.LayerNorm):
                    value = uniform(weight.shape) + (name == "weight")
                elif name.endswith("bias"):
                    value = uniform(weight.shape)
                else:
                    value = torch.randn(weight.shape, generator=generator)
                    if isinstance(part, nn.Linear | nn.Conv2d):
                        value /= weight[0].numel() ** 0.5
                weight.copy_(value)
                filled.add(weight)
    assert filled == set(module.parameters())
    return module.eval().requires_grad_(False)


# -- networks -------------------------------------------------------------------------------------

UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 48, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (2, 4, 2),
    "cross_attention_dim": 64,
    "use_linear_projection": True,
    "norm_num_groups": 8,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 36 + 6 * 16,
}
# SDXL's refiner has no attention in its lowest blocks, and sees text encoder 2 alone.
REFINER = {
    **UNET,
    "block_out_channels": (32, 48, 64, 64),
    "down_block_types": (
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 2,
    "attention_head_dim": (2, 3, 4, 2),
    "cross_attention_dim": 40,
    "projection_class_embeddings_input_dim": 36 + 5 * 16,
}
NOT_CONTROLNET = ("sample_size", "out_channels", "up_block_types")
CONTROLNET = {
    **{key: value for key, value in UNET.items() if key not in NOT_CONTROLNET},
    "conditioning_embedding_out_channels": (8, 12, 16, 20),
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (16, 24, 32, 40),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 128,
    "scaling_factor": 0.2,
}
TEXT_ENCODER = {
    "hidden_size": 24,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "hidden_act": "quick_gelu",
    "projection_dim": 24,
}
TEXT_ENCODER_2 = {
    "hidden_size": 40,
    "intermediate_size": 88,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "hidden_act": "gelu",
    "projection_dim": 36,
}
RESAMPLER = {
    "dim": 48,
    "depth": 2,
    "dim_head": 16,
    "heads": 2,
    "num_queries": 6,
    "embedding_dim": 512,
    "output_dim": 64,
    "ff_mult": 3,
}
# SDXL base 1.0's scheduler/scheduler_config.json.
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


def make_unet(seed: int, **settings) -> UNet2DConditionModel:
    return fill(UNet2DConditionModel(**UNET | settings), seed)


def make_controlnet(seed: int, **settings) -> ControlNetModel:
    return fill(ControlNetModel(**CONTROLNET | settings), seed)


def make_vae(seed: int, **settings) -> AutoencoderKL:
    return fill(AutoencoderKL(**VAE | settings), seed)


def make_text_encoder(seed: int, *, with_projection: bool, **settings) -> nn.Module:
    """CLIPTextModel, or CLIPTextModelWithProjection; `eos_token_id=2` is what SDXL's files say."""
    defaults = TEXT_ENCODER_2 if with_projection else TEXT_ENCODER
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = CLIPTextConfig(**{"vocab_size": len(vocabulary()), **ids, **defaults, **settings})
    model = CLIPTextModelWithProjection if with_projection else CLIPTextModel
    return fill(model(config), seed)


class Resampler(nn.Module):
    """Learned queries that attend to the face embedding and to themselves.

    Source: InstantID's ip_adapter/resampler.py; names as in the adapter file's `image_proj`.
    """

    def __init__(
        self,
        *,
        dim: int = 1280,
        depth: int = 4,
        dim_head: int = 64,
        heads: int = 20,
        num_queries: int = 16,
        embedding_dim: int = 512,
        output_dim: int = 2048,
        ff_mult: int = 4,
    ):
        super().__init__()
        self.latents = nn.Parameter(torch.empty(1, num_queries, dim))
        self.proj_in = nn.Linear(embedding_dim, dim)
        self.layers = nn.ModuleList()
        for _ in range(depth):
            feed_forward = nn.Sequential(
                nn.LayerNorm(dim),
                nn.Linear(dim, ff_mult * dim, bias=False),
                nn.GELU(),
                nn.Linear(ff_mult * dim, dim, bias=False),
            )
            attention = PerceiverAttention(dim, dim_head, heads)
            self.layers.append(nn.ModuleList([attention, feed_forward]))
        self.proj_out = nn.Linear(dim, output_dim)
        self.norm_out = nn.LayerNorm(output_dim)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """[B, embedding_dim] to [B, num_queries, output_dim]."""
        x = self.proj_in(embeddings[:, None])
        latents = self.latents.repeat(len(x), 1, 1)
        for attention, feed_forward in self.layers:
            latents = latents + attention(x, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


class PerceiverAttention(nn.Module):
    def __init__(self, dim: int, dim_head: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim_head * heads, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim_head * heads, bias=False)
        self.to_out = nn.Linear(dim_head * heads, dim, bias=False)

    def forward(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        x, latents = self.norm1(x), self.norm2(latents)
        key, value = self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=-1)
        return self.to_out(attend(self.to_q(latents), key, value, self.heads))


def attend(query, key, value, heads: int) -> torch.Tensor:
    """Multi-head attention of [B, L, D] tensors, written out."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return (logits.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


class IDBranch(nn.Module):
    """The adapter's keys and values in one cross-attention."""

    def __init__(self, width: int, token_dim: int):
        super().__init__()
        self.to_k_ip = nn.Linear(token_dim, width, bias=False)
        self.to_v_ip = nn.Linear(token_dim, width, bias=False)


class IDAttentionProcessor:
    """Decoupled cross-attention: one query, a softmax over the text and one over the ID tokens.

    The ID tokens are the last `num_tokens` rows of `encoder_hidden_states`. Not an `nn.Module`, so
    that the UNet's own state stays SDXL's.
    """

    def __init__(self, branch: IDBranch, num_tokens: int):
        self.branch, self.num_tokens, self.scale = branch, num_tokens, 1.0
        self.mask: torch.Tensor | None = None

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None
    ) -> torch.Tensor:
        text, tokens = encoder_hidden_states.split(
            [encoder_hidden_states.shape[1] - self.num_tokens, self.num_tokens], dim=1
        )
        query = attn.to_q(hidden_states)
        out = attend(query, attn.to_k(text), attn.to_v(text), attn.heads)
        of_person = attend(
            query, self.branch.to_k_ip(tokens), self.branch.to_v_ip(tokens), attn.heads
        )
        if self.mask is not None:
            # The official pipeline finds the map's size by its number of positions.
            ratio = (self.mask.numel() / query.shape[1]) ** 0.5
            nearest = functional.interpolate(self.mask[None, None], scale_factor=1 / ratio)
            of_person = of_person * nearest.reshape(1, -1, 1)
        return attn.to_out[0](out + self.scale * of_person)


class IDAdapter:
    """The ID branches of a UNet: installs their processors, numbers them as the adapter file does.

    Attributes:
      branches: the number in the file -> the branch.
      layers: the number in the file -> the cross-attention's name in the UNet.
    """

    def __init__(self, unet: UNet2DConditionModel, num_tokens: int, seed: int):
        # The published file numbers torch's attention processors, in order of registration.
        names = [name.removesuffix(".processor") for name in unet.attn_processors]
        self.branches: dict[int, IDBranch] = {}
        self.layers: dict[int, str] = {}
        self._unet = unet
        self._processors = []
        for number, name in enumerate(names):
            if not name.endswith("attn2"):
                continue
            attn = unet.get_submodule(name)
            branch = IDBranch(attn.to_q.out_features, attn.to_k.in_features)
            self.branches[number] = fill(branch, seed + number)
            self.layers[number] = name
            self._processors.append(IDAttentionProcessor(branch, num_tokens))
            attn.set_processor(self._processors[-1])

    def set_scale(self, scale: float | Mapping) -> None:
        """scale: one for all layers, or of blocks, as diffusers' set_ip_adapter_scale takes it."""
        blocks = {"": scale}
        if isinstance(scale, Mapping):
            (blocks,) = _maybe_expand_lora_scales(self._unet, [scale], default_scale=0.0)
        for name, processor in zip(self.layers.values(), self._processors, strict=True):
            (processor.scale,) = (s for block, s in blocks.items() if name.startswith(block))

    def set_mask(self, mask: torch.Tensor | None) -> None:
        """mask: [8H, 8W], of all images."""
        for processor in self._processors:
            processor.mask = mask

    def state_dict(self) -> dict[str, torch.Tensor]:
        """`1.to_k_ip.weight`, ..., as under `ip_adapter` in the file."""
        return {
            f"{number}.{name}": tensor
            for number, branch in self.branches.items()
            for name, tensor in branch.state_dict().items()
        }


# -- tokenizers -----------------------------------------------------------------------------------

MERGES = ("i n</w>", "m a", "ma n</w>", "t h", "th e</w>", "r a", "ra in</w>", "e d</w>")
START, END = "<|startoftext|>", "<|endoftext|>"


def vocabulary() -> dict[str, int]:
    """CLIP's byte alphabet, the same at the end of a word, a few merges, and the two marks."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    # As in CLIP: printable bytes stand for themselves, the others for characters from 256 on.
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - 188)]
    merged = [merge.replace(" ", "") for merge in MERGES]
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), *merged, START, END]
    return {word: number for number, word in enumerate(words)}


def save_tokenizer(folder: Path, pad_token: str, max_length: int = 77) -> CLIPTokenizer:
    """Writes a tokenizer with the files of the published ones, and returns it loaded."""
    folder.mkdir(parents=True)
    marks = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad_token}
    write_json(folder / "vocab.json", vocabulary())
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), "utf-8")
    write_json(folder / "special_tokens_map.json", marks)
    config = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": max_length,
        "tokenizer_class": "CLIPTokenizer",
    }
    write_json(folder / "tokenizer_config.json", config | marks)
    return CLIPTokenizer.from_pretrained(folder)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), "utf-8")


# -- the original layout --------------------------------------------------------------------------


def unet_original_names(names: Sequence[str], layers_per_block: int, blocks: int) -> dict[str, str]:
    """diffusers' UNet names -> Stability's, by a table of prefixes in the order of its lists.

    Stability numbers what diffusers groups: `input_blocks` is conv_in, then every layer and
    downsampler; `output_blocks` every layer, the last of a block with its upsampler.
    """
    present = {name.rpartition(".")[0] for name in names}
    prefixes = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    place = 1
    for block in range(blocks):
        for layer in range(layers_per_block):
            prefixes[f"down_blocks.{block}.resnets.{layer}"] = f"input_blocks.{place}.0"
            prefixes[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks.{place}.1"
            place += 1
        prefixes[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{place}.0.op"
        place += 1
    place = 0
    for block in range(blocks):
        for layer in range(layers_per_block + 1):
            prefixes[f"up_blocks.{block}.resnets.{layer}"] = f"output_blocks.{place}.0"
            prefixes[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{place}.1"
            place += 1
        slot = 2 if f"up_blocks.{block}.attentions.0.proj_in" in present else 1
        prefixes[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{place - 1}.{slot}.conv"
    inside_resnets = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    renamed = {}
    for name in names:
        prefix = next(p for p in prefixes if name.startswith(f"{p}."))
        rest = name.removeprefix(f"{prefix}.")
        if ".resnets." in name:
            module, leaf = rest.split(".")
            rest = f"{inside_resnets[module]}.{leaf}"
        renamed[name] = f"{prefixes[prefix]}.{rest}"
    return renamed


def vae_original(state: Mapping[str, torch.Tensor], blocks: int) -> dict[str, torch.Tensor]:
    """diffusers' VAE -> Stability's names; its attention is made of 1x1 convolutions."""
    prefixes = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    attention = {
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
    }
    for coder in ("encoder", "decoder"):
        prefixes[f"{coder}.conv_in"] = f"{coder}.conv_in"
        prefixes[f"{coder}.conv_norm_out"] = f"{coder}.norm_out"
        prefixes[f"{coder}.conv_out"] = f"{coder}.conv_out"
        for i in range(2):
            prefixes[f"{coder}.mid_block.resnets.{i}"] = f"{coder}.mid.block_{i + 1}"
        for theirs, original in attention.items():
            prefixes[f"{coder}.mid_block.attentions.0.{theirs}"] = f"{coder}.mid.attn_1.{original}"
    for block in range(blocks):
        up = f"decoder.up.{blocks - 1 - block}"
        prefixes[f"encoder.down_blocks.{block}.resnets"] = f"encoder.down.{block}.block"
        prefixes[f"decoder.up_blocks.{block}.resnets"] = f"{up}.block"
        downsample = f"encoder.down.{block}.downsample.conv"
        prefixes[f"encoder.down_blocks.{block}.downsamplers.0.conv"] = downsample
        prefixes[f"decoder.up_blocks.{block}.upsamplers.0.conv"] = f"{up}.upsample.conv"
    converted = {}
    for name, tensor in state.items():
        prefix = next(p for p in prefixes if name.startswith(f"{p}."))
        rest = name.removeprefix(f"{prefix}.").replace("conv_shortcut", "nin_shortcut")
        if ".attentions." in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        converted[f"{prefixes[prefix]}.{rest}"] = tensor
    return converted


def controlnet_original(
    state: Mapping[str, torch.Tensor], layers_per_block: int, blocks: int
) -> dict[str, torch.Tensor]:
    """A ControlNet with the names of the ControlNet authors' code, without a prefix.

    They count the image's convolutions with the activations between them.
    """
    own = {name for name in state if name.startswith("controlnet_")}
    names = unet_original_names(
        [name for name in state if name not in own], layers_per_block, blocks
    )
    hint = "controlnet_cond_embedding"
    layers = [f"{hint}.conv_in", *(f"{hint}.blocks.{i}" for i in range(6)), f"{hint}.conv_out"]
    places = {layer: f"input_hint_block.{2 * i}" for i, layer in enumerate(layers)}
    places["controlnet_mid_block"] = "middle_block_out.0"
    for name in sorted(own):
        module, _, leaf = name.rpartition(".")
        if module.startswith("controlnet_down_blocks."):
            places[module] = f"zero_convs.{module.split('.')[1]}.0"
        names[name] = f"{places[module]}.{leaf}"
    return {names[name]: tensor for name, tensor in state.items()}


def openclip_original(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' text encoder 2 -> OpenCLIP's: joined projections, and one transposed."""
    top = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    converted = {original: state[name] for name, original in top.items()}
    converted["text_projection"] = state["text_projection.weight"].T.contiguous()
    layers = 1 + max(int(name.split(".")[3]) for name in state if ".layers." in name)
    for layer in range(layers):
        theirs = f"text_model.encoder.layers.{layer}"
        original = f"transformer.resblocks.{layer}"
        for leaf in ("weight", "bias"):
            joined = [state[f"{theirs}.self_attn.{x}_proj.{leaf}"] for x in "qkv"]
            converted[f"{original}.attn.in_proj_{leaf}"] = torch.cat(joined)
            for name, module in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                converted[f"{original}.{module}.{leaf}"] = state[f"{theirs}.{name}.{leaf}"]
    return converted


def with_text_model_prefix(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers 5 drops CLIPTextModel's outer level in memory; published files have it."""
    levels = ("text_model.", "text_projection.")
    return {n if n.startswith(levels) else f"text_model.{n}": t for n, t in state.items()}


def original_state(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    text_encoder_2: CLIPTextModelWithProjection,
) -> dict[str, torch.Tensor]:
    """All networks as one file in the original layout, with the extras such files carry."""
    config, state = unet.config, unet.state_dict()
    blocks = len(config.block_out_channels)
    names = unet_original_names(list(state), config.layers_per_block, blocks)
    positions = torch.arange(text_encoder.config.max_position_embeddings)[None]
    parts = {
        "model.diffusion_model.": {names[name]: tensor for name, tensor in state.items()},
        "first_stage_model.": vae_original(vae.state_dict(), len(vae.config.block_out_channels)),
        "conditioner.embedders.0.transformer.": {
            **with_text_model_prefix(text_encoder.state_dict()),
            "text_model.embeddings.position_ids": positions,
        },
        "conditioner.embedders.1.model.": {
            **openclip_original(text_encoder_2.state_dict()),
            "logit_scale": torch.tensor(4.6),
        },
    }
    return {prefix + name: t for prefix, part in parts.items() for name, t in part.items()}


# -- the pipeline ---------------------------------------------------------------------------------


@dataclasses.dataclass
class PromptEmbeddings:
    """Text rows [B, L, D] and pooled rows [B, P] of the prompts and of the negative prompts."""

    text: torch.Tensor
    pooled: torch.Tensor
    negative_text: torch.Tensor
    negative_pooled: torch.Tensor


@dataclasses.dataclass
class Result:
    """Final latents [B, H, W, 4]; images [B, 8H, 8W, 3] in [0, 1]; the same before clipping."""

    latents: np.ndarray
    images: np.ndarray
    unclipped: np.ndarray


def make_scheduler(class_name: str | None = None, config: Mapping = SCHEDULER, **settings):
    """diffusers' scheduler of a checkpoint's configuration, or another made from it."""
    with _numpy_2():
        own = getattr(diffusers, config["_class_name"]).from_config(dict(config))
        if class_name is None:
            return own
        return getattr(diffusers, class_name).from_config(own.config, **settings)


class InstantIDReference:
    """SDXL with InstantID's three parts, small, with the official pipeline's semantics.

    Where the official code has a bug that we fix (`instantid_jax`'s README lists them), so does
    this.

    Attributes:
      controlnets: IdentityNet, then `further_controlnets` others, which see the text.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 0,
        further_controlnets: int = 0,
        eos_token_id: int = 2,
        unet: Mapping = UNET,
        controlnet: Mapping = CONTROLNET,
        vae: Mapping = VAE,
        resampler: Mapping = RESAMPLER,
    ):
        """`folder` receives the tokenizers; missing settings take the defaults."""
        self.tokenizer = save_tokenizer(Path(folder) / "tokenizer", pad_token=END)
        self.tokenizer_2 = save_tokenizer(Path(folder) / "tokenizer_2", pad_token="!")
        end = {"eos_token_id": eos_token_id}
        self.text_encoder = make_text_encoder(seed + 1, with_projection=False, **end)
        self.text_encoder_2 = make_text_encoder(seed + 2, with_projection=True, **end)
        self.unet = make_unet(seed + 3, **unet)
        self.controlnets = [
            make_controlnet(seed + 4 + i, **controlnet) for i in range(1 + further_controlnets)
        ]
        self.vae = make_vae(seed + 50, **vae)
        self.resampler_settings = RESAMPLER | dict(resampler)
        self.resampler = fill(Resampler(**self.resampler_settings), seed + 51)
        self.id_adapter = IDAdapter(self.unet, self.resampler_settings["num_queries"], seed + 100)

    # -- files ------------------------------------------------------------------------------------

    def save(
        self,
        folder: Path,
        *,
        adapter: str = "bin",
        dtype: torch.dtype = torch.float32,
        variant: str | None = None,
        scheduler: Mapping = SCHEDULER,
    ) -> None:
        """Writes `sdxl/`, `instantid/` and `controlnet_1/`, ..., laid out as they are published.

        Args:
          adapter: "bin" or "safetensors", the adapter file's kind.
          dtype: dtype of all tensors.
          variant: such as "fp16" in `diffusion_pytorch_model.fp16.safetensors`.
        """
        folder = Path(folder)
        sdxl = folder / "sdxl"
        weights = "safetensors" if variant is None else f"{variant}.safetensors"
        for name, model in {"unet": self.unet, "vae": self.vae}.items():
            _save_model(model, sdxl / name, f"diffusion_pytorch_model.{weights}", dtype)
        for name in ("text_encoder", "text_encoder_2"):
            _save_model(getattr(self, name), sdxl / name, f"model.{weights}", dtype)
        save_tokenizer(sdxl / "tokenizer", pad_token=END)
        save_tokenizer(sdxl / "tokenizer_2", pad_token="!")
        (sdxl / "scheduler").mkdir()
        write_json(sdxl / "scheduler" / "scheduler_config.json", dict(scheduler))
        index = {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": "0.19.0.dev0",
            "force_zeros_for_empty_prompt": True,
            "add_watermarker": None,
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        write_json(sdxl / "model_index.json", index)
        self.save_instantid(folder / "instantid", adapter=adapter, dtype=dtype)
        for i, controlnet in enumerate(self.controlnets[1:], start=1):
            file = f"diffusion_pytorch_model.{weights}"
            _save_model(controlnet, folder / f"controlnet_{i}", file, dtype)

    def save_instantid(
        self, folder: Path, *, adapter: str = "bin", dtype: torch.dtype = torch.float32
    ) -> None:
        """Writes `ControlNetModel/`, the adapter file, and the head size that it does not tell."""
        file = "diffusion_pytorch_model.safetensors"
        _save_model(self.controlnets[0], folder / "ControlNetModel", file, dtype)
        if adapter == "bin":
            torch.save(self.adapter_state(dtype), folder / "ip-adapter.bin")
        else:
            flat = {
                f"{part}.{name}": tensor.contiguous()
                for part, state in self.adapter_state(dtype).items()
                for name, tensor in state.items()
            }
            save_file(flat, folder / "ip-adapter.safetensors")
        write_json(folder / "config.json", {"dim_head": self.resampler_settings["dim_head"]})

    def adapter_state(self, dtype: torch.dtype = torch.float32) -> dict[str, dict]:
        """Contents of the adapter file: `image_proj` and `ip_adapter`."""
        parts = {"image_proj": self.resampler, "ip_adapter": self.id_adapter}
        return {
            part: {name: tensor.to(dtype) for name, tensor in module.state_dict().items()}
            for part, module in parts.items()
        }

    def original_state(self) -> dict[str, torch.Tensor]:
        return original_state(self.unet, self.vae, self.text_encoder, self.text_encoder_2)

    def save_single_file(self, path: Path, dtype: torch.dtype = torch.float32, **metadata: str):
        """SDXL as one file in the original layout: `.safetensors`, or a pickle (`.ckpt`)."""
        state = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in self.original_state().items()
        }
        if Path(path).suffix == ".safetensors":
            save_file({n: t.contiguous() for n, t in state.items()}, path, {**metadata} or None)
        else:
            torch.save({"state_dict": state}, path)

    # -- the parts of a call ----------------------------------------------------------------------

    def encode_prompt(
        self,
        prompt: Sequence[str],
        negative_prompt: Sequence[str] | None = None,
        *,
        prompt_2: Sequence[str] | None = None,
        negative_prompt_2: Sequence[str] | None = None,
        clip_skip: int | None = None,
    ) -> PromptEmbeddings:
        """Hidden states of both encoders, side by side, and the pooled output of the second.

        Without a negative prompt its rows are zeros. `clip_skip` leaves the negative prompt alone,
        as in diffusers.
        """
        text, pooled = self._encode(prompt, prompt_2, clip_skip or 0)
        if negative_prompt is None:
            negative = torch.zeros_like(text), torch.zeros_like(pooled)
        else:
            negative = self._encode(negative_prompt, negative_prompt_2, 0)
        return PromptEmbeddings(text, pooled, *negative)

    def _encode(self, prompt, prompt_2, clip_skip):
        states = []
        for texts, tokenizer, encoder in (
            (prompt, self.tokenizer, self.text_encoder),
            (prompt_2 or prompt, self.tokenizer_2, self.text_encoder_2),
        ):
            length = tokenizer.model_max_length
            ids = tokenizer(
                list(texts), padding="max_length", max_length=length, truncation=True
            ).input_ids
            output = encoder(torch.tensor(ids), output_hidden_states=True)
            states.append(output.hidden_states[-2 - clip_skip])
        return torch.cat(states, dim=-1), output.text_embeds

    def id_tokens(self, embeddings: np.ndarray) -> torch.Tensor:
        """[B, 512] raw face embeddings to [B, N, D]."""
        return self.resampler(torch.from_numpy(np.array(embeddings, np.float32)))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """[B, H, W, 4] scaled latents to [B, 8H, 8W, 3] about [-1, 1], not clipped."""
        config, x = self.vae.config, nchw(latents)
        if config.latents_mean is not None and config.latents_std is not None:
            mean, std = (
                torch.tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std)
            )
            x = x * std / config.scaling_factor + mean
        else:
            x = x / config.scaling_factor
        return nhwc(self.vae.decode(x).sample)

    def predict(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        *,
        text: torch.Tensor,
        id_tokens: torch.Tensor,
        added: Mapping[str, torch.Tensor],
        residuals: tuple[list[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The UNet with its ID branch; the scale is `id_adapter`'s. All rows are per sample."""
        down, mid = (None, None) if residuals is None else residuals
        return self.unet(
            sample,
            timestep,
            encoder_hidden_states=torch.cat([text, id_tokens], dim=1),
            added_cond_kwargs=dict(added),
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample

    # -- a call -----------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: Sequence[str] | PromptEmbeddings,
        embeddings: np.ndarray,
        images: Sequence[np.ndarray],
        noise: np.ndarray,
        *,
        negative_prompt: Sequence[str] | None = None,
        prompt_2: Sequence[str] | None = None,
        negative_prompt_2: Sequence[str] | None = None,
        clip_skip: int | None = None,
        scheduler=None,
        step_noise: Callable[[int], np.ndarray] | None = None,
        num_inference_steps: int = 4,
        guidance_scale: float = 5.0,
        guidance_rescale: float = 0.0,
        pag_scale: float = 0.0,
        pag_adaptive_scale: float = 0.0,
        pag_applied_layers: Sequence[str] = ("mid",),
        eta: float = 0.0,
        ip_adapter_scale: float | Mapping = 0.8,
        controlnet_conditioning_scale: float | Sequence[float] = 0.8,
        control_guidance_start: float | Sequence[float] = 0.0,
        control_guidance_end: float | Sequence[float] = 1.0,
        guess_mode: bool = False,
        masks: Sequence[np.ndarray | None] = (),
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] = (0, 0),
        target_size: tuple[int, int] | None = None,
        negative_original_size: tuple[int, int] | None = None,
        negative_crops_coords_top_left: tuple[int, int] = (0, 0),
        negative_target_size: tuple[int, int] | None = None,
        on_step: Callable[[int, np.ndarray], None] | None = None,
    ) -> Result:
        """Makes a batch of B images.

        Args:
          prompt: B texts, or their embeddings.
          embeddings: [B, 512], raw.
          images: one [B, 8H, 8W, 3] in [0, 1] for each of `controlnets`.
          noise: [B, H, W, 4] of unit variance.
          masks: one [8H, 8W] in [0, 1] for each of `controlnets`, all sides multiples of 32; the
            first is the official pipeline's control_mask.
          scheduler: from `make_scheduler`; None is SDXL's own.
          step_noise: step -> [B, H, W, 4], what a stochastic scheduler draws at that step.
          on_step: called with each step's number and its latents [B, H, W, 4].
        """
        scheduler = scheduler or make_scheduler()
        guided = guidance_scale > 1
        if not isinstance(prompt, PromptEmbeddings):
            prompt = self.encode_prompt(
                prompt,
                negative_prompt,
                prompt_2=prompt_2,
                negative_prompt_2=negative_prompt_2,
                clip_skip=clip_skip,
            )
        B = len(noise)
        size = images[0].shape[1:3]
        time_ids = [*(original_size or size), *crops_coords_top_left, *(target_size or size)]
        negative_time_ids = time_ids
        if negative_original_size is not None and negative_target_size is not None:
            negative_time_ids = [
                *negative_original_size,
                *negative_crops_coords_top_left,
                *negative_target_size,
            ]
        # The unconditional person is an embedding of zeros, which the Resampler sees too.
        positive = {
            "text": prompt.text,
            "id_tokens": self.id_tokens(embeddings),
            "text_embeds": prompt.pooled,
            "time_ids": torch.tensor([time_ids] * B, dtype=torch.float32),
        }
        negative = {
            "text": prompt.negative_text,
            "id_tokens": self.id_tokens(np.zeros_like(embeddings)),
            "text_embeds": prompt.negative_pooled,
            "time_ids": torch.tensor([negative_time_ids] * B, dtype=torch.float32),
        }
        rows = {
            k: torch.cat([negative[k], positive[k]]) if guided else positive[k] for k in positive
        }
        controls = _Controls(
            self.controlnets,
            [nchw(image) for image in images],
            *(
                _per_net(value, len(self.controlnets))
                for value in (
                    controlnet_conditioning_scale,
                    control_guidance_start,
                    control_guidance_end,
                )
            ),
            guess_mode,
            [None if mask is None else torch.from_numpy(mask) for mask in masks],
        )
        self.id_adapter.set_scale(ip_adapter_scale)
        perturbed = _Perturbed(self.unet, pag_scale, pag_adaptive_scale, pag_applied_layers)
        self.id_adapter.set_mask(controls.masks[0] if controls.masks else None)
        with perturbed.attentions(guided), _draws(scheduler, step_noise) as at_step:
            scheduler.set_timesteps(num_inference_steps)
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(0)
            latents = nchw(noise) * scheduler.init_noise_sigma
            steps = len(scheduler.timesteps)
            for i, t in enumerate(scheduler.timesteps):
                at_step(i)
                one = scheduler.scale_model_input(latents, t)
                x = torch.cat([one, one]) if guided else one
                unconditional = guided and guess_mode
                down, mid = controls.residuals(
                    i / steps,
                    (i + 1) / steps,
                    one if unconditional else x,
                    t,
                    positive if unconditional else rows,
                )
                if unconditional:
                    # Guess mode keeps the unconditional half free of the control images.
                    down = [torch.cat([torch.zeros_like(d), d]) for d in down]
                    mid = torch.cat([torch.zeros_like(mid), mid])
                again = perturbed.rows(B)
                output = self.predict(
                    again(x),
                    t,
                    text=again(rows["text"]),
                    id_tokens=again(rows["id_tokens"]),
                    added={k: again(rows[k]) for k in ("text_embeds", "time_ids")},
                    residuals=([again(d) for d in down], again(mid)),
                )
                with_text = output[B:][:B] if guided else output[:B]
                if pag_scale > 0:
                    output = perturbed(output, guided, guidance_scale, t)
                elif guided:
                    without, _ = output.chunk(2)
                    output = without + guidance_scale * (with_text - without)
                if guided and guidance_rescale > 0:
                    output = rescale_noise_cfg(output, with_text, guidance_rescale)
                # As diffusers' pipelines do: TCD's own default is not 0.
                takes_eta = "eta" in inspect.signature(scheduler.step).parameters
                options = {"eta": eta} if takes_eta else {}
                latents = scheduler.step(output, t, latents, **options).prev_sample
                if on_step is not None:
                    on_step(i, nhwc(latents))
        final = nhwc(latents)
        unclipped = self.decode(final)
        return Result(final, np.clip(unclipped / 2 + 0.5, 0, 1), unclipped)


class _Perturbed(PAGMixin):
    """diffusers' own perturbed-attention guidance, on a UNet with other processors too."""

    def __init__(self, unet, scale: float, adaptive_scale: float, layers: Sequence[str]):
        self.unet = unet
        self._pag_scale, self._pag_adaptive_scale = scale, adaptive_scale
        self.set_pag_applied_layers(list(layers))

    @contextlib.contextmanager
    def attentions(self, guided: bool):
        before = self.unet.attn_processors
        if self._pag_scale > 0:
            self._set_pag_attn_processor(self.pag_applied_layers, guided)
        yield
        self.unet.set_attn_processor(before)

    def rows(self, images: int):
        """Repeats the positive rows at the end, if there is guidance."""
        if self._pag_scale == 0:
            return lambda x: x
        return lambda x: torch.cat([x, x[-images:]])

    def __call__(self, output, guided: bool, scale: float, t) -> torch.Tensor:
        return self._apply_perturbed_attention_guidance(output, guided, scale, t)


@dataclasses.dataclass
class _Controls:
    networks: list[ControlNetModel]
    images: list[torch.Tensor]
    scales: list[float]
    starts: list[float]
    ends: list[float]
    guess_mode: bool
    masks: list[torch.Tensor | None]

    def residuals(self, begin, end, x, t, rows):
        """Summed over the networks, for the step from `begin` to `end` of the way."""
        sums = None
        for i, network in enumerate(self.networks):
            outside = begin < self.starts[i] or end > self.ends[i]
            image = self.images[i]
            down, mid = network(
                x,
                t,
                # IdentityNet attends to the person, every other network to the text.
                encoder_hidden_states=rows["id_tokens" if i == 0 else "text"],
                added_cond_kwargs={k: rows[k] for k in ("text_embeds", "time_ids")},
                controlnet_cond=image.repeat(len(x) // len(image), 1, 1, 1),
                conditioning_scale=0.0 if outside else self.scales[i],
                guess_mode=self.guess_mode,
                return_dict=False,
            )
            tensors = [*down, mid]
            if self.masks and (mask := self.masks[i]) is not None:
                tensors = [
                    tensor
                    * functional.interpolate(mask[None, None], tensor.shape[2:], mode="bilinear")
                    for tensor in tensors
                ]
            sums = tensors if sums is None else [a + b for a, b in zip(sums, tensors, strict=True)]
        return sums[:-1], sums[-1]


def _per_net(value: float | Sequence[float], count: int) -> list[float]:
    values = list(value) if isinstance(value, Sequence) else [value] * count
    assert len(values) == count
    return values


@contextlib.contextmanager
def _numpy_2():
    with warnings.catch_warnings():
        # diffusers calls np.array(tensor); torch 2.13's __array__ does not know NumPy 2's `copy`.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


class BrownianMotion:
    """Unit noise of a motion's increments, two for each step of DPM-Solver++'s SDE.

    Both start where the step does, and the second is longer. Stands in for torchsde's tree.
    """

    def __init__(self, draw: Callable[[], torch.Tensor]):
        self._draw = draw
        self._first: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, sigma: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        noise = self._draw()
        if self._first is None:
            self._first = sigma - target, noise
            return noise
        span, before = self._first
        self._first = None
        share = span / (sigma - target)
        return share.sqrt() * before + (1 - share).sqrt() * noise


@contextlib.contextmanager
def _draws(scheduler, step_noise):
    """Gives the scheduler the noise of the step passed to the yielded function."""
    step = 0

    def at_step(i):
        nonlocal step
        step = i

    def draw(shape, **_):
        assert step_noise is not None, f"{type(scheduler).__name__} wants noise"
        noise = nchw(step_noise(step))
        assert shape is None or noise.shape == shape
        return noise

    module = sys.modules[type(scheduler).__module__]
    motion = BrownianMotion(lambda: draw(None))
    stand_ins = {"randn_tensor": draw, "BrownianTreeNoiseSampler": lambda *_: motion}
    with contextlib.ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            if hasattr(module, name):
                stack.enter_context(unittest.mock.patch.object(module, name, stand_in))
        stack.enter_context(_numpy_2())
        yield at_step


def save_refiner(unet: UNet2DConditionModel, folder: Path) -> None:
    """Writes what a published refiner's folder has that is its own."""
    _save_model(unet, folder / "unet", "diffusion_pytorch_model.safetensors", torch.float32)
    index = {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True}
    write_json(folder / "model_index.json", index)


def _save_model(model: nn.Module, folder: Path, file: str, dtype: torch.dtype) -> None:
    """`config.json` as `save_pretrained` writes it, and the weights under their published names."""
    folder.mkdir(parents=True)
    if hasattr(model, "save_config"):
        model.save_config(folder)
        state = model.state_dict()
    else:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        state = with_text_model_prefix(model.state_dict())
    state = {name: tensor.to(dtype).contiguous() for name, tensor in state.items()}
    save_file(state, folder / file, {"format": "pt"})
