"""The original layout: one file, with the names of Stability AI's code and of ControlNet's.

Every rule maps diffusers' name to the original one, so nothing is guessed from the file.
Source: Stability-AI/generative-models; lllyasviel/ControlNet;
diffusers/loaders/single_file_utils.py.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from instantid_jax.errors import InputError
from instantid_jax.models.config import per_block
from instantid_jax.models.controlnet import ControlNetConfig
from instantid_jax.models.unet import EncoderConfig, UNetConfig
from instantid_jax.models.vae import VAEConfig
from instantid_jax.weights.names import torch_name
from instantid_jax.weights.tensors import LazyTensor, Tensors

PREFIXES = {
    "unet": "model.diffusion_model.",
    "refiner": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
    "controlnet": "control_model.",
}
# Where a network's names begin in files of one network, and names that it alone has.
ALONE = {
    "unet": (("",), ("input_blocks.", "output_blocks.")),
    "refiner": (("",), ("input_blocks.", "output_blocks.")),
    "vae": (("", "vae."), ("encoder.down.", "decoder.up.")),
    "controlnet": (("",), ("input_hint_block.", "zero_convs.")),
}

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
HINT = "controlnet_cond_embedding."
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPENCLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPENCLIP_TOP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}


def prefix_of(component: str, names: Iterable[str]) -> str | None:
    """The prefix of one network's names in a file, or None if it is not in the original layout.

    Args:
      component: a key of `PREFIXES`.
    """
    names = list(names)
    if any(name.startswith(PREFIXES[component]) for name in names):
        return PREFIXES[component]
    prefixes, own = ALONE.get(component, ((), ()))
    for prefix in prefixes:
        if all(any(name.startswith(prefix + each) for name in names) for each in own):
            return prefix
    return None


def unet_name(name: str, config: EncoderConfig) -> str:
    """diffusers' name of a UNet tensor -> the original one, without prefix."""
    module, _, leaf = name.rpartition(".")
    if module in UNET_TOP:
        return f"{UNET_TOP[module]}.{leaf}"
    parts = module.split(".")
    if parts[0] == "mid_block":
        place = 1 if parts[1] == "attentions" else 2 * int(parts[2])
        return ".".join(["middle_block", str(place), *_inner(parts[1], parts[3:]), leaf])
    layers = _layers(config)
    block, kind, index = int(parts[1]), parts[2], int(parts[3])
    rest = _inner(kind, parts[4:])
    if parts[0] == "down_blocks":
        first = 1 + block * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers}.0.op.{leaf}"
        place = "01"[kind == "attentions"]
        return ".".join(["input_blocks", str(first + index), place, *rest, leaf])
    assert isinstance(config, UNetConfig), "only UNets have up blocks"
    first = block * (layers + 1)
    if kind == "upsamplers":
        place = 2 if config.up_block_types[block].startswith("CrossAttn") else 1
        return f"output_blocks.{first + layers}.{place}.conv.{leaf}"
    place = "01"[kind == "attentions"]
    return ".".join(["output_blocks", str(first + index), place, *rest, leaf])


def _inner(kind: str, parts: list[str]) -> list[str]:
    return [RESNET[parts[0]], *parts[1:]] if kind == "resnets" else parts


def _layers(config: EncoderConfig) -> int:
    """Layers of each block.

    Raises:
      InputError: if they differ, which the original layout does not provide for.
    """
    blocks = len(config.block_out_channels)
    each = set(per_block(config.layers_per_block, blocks, "layers_per_block"))
    if len(each) > 1:
        raise InputError(
            f"layers_per_block={config.layers_per_block}: files in the original layout have as "
            "many layers in every block; use a file or folder in diffusers' layout"
        )
    return each.pop()


def controlnet_name(name: str, config: ControlNetConfig) -> str:
    """diffusers' name of a ControlNet's tensor -> the original one, without prefix."""
    module, _, leaf = name.rpartition(".")
    if module.startswith(HINT):
        # Every other place is an activation.
        between = 2 * (len(config.conditioning_embedding_out_channels) - 1)
        place, _, index = module.removeprefix(HINT).partition(".")
        number = {"conv_in": 0, "blocks": 1 + int(index or 0), "conv_out": between + 1}[place]
        return f"input_hint_block.{2 * number}.{leaf}"
    if module.startswith("controlnet_down_blocks."):
        return f"zero_convs.{module.rpartition('.')[2]}.0.{leaf}"
    if module == "controlnet_mid_block":
        return f"middle_block_out.0.{leaf}"
    return unet_name(name, config)


def vae_name(name: str, config: VAEConfig) -> str:
    """diffusers' name of a VAE tensor -> the original one, without prefix."""
    name = name.replace("mid_block.resnets.0.", "mid.block_1.")
    name = name.replace("mid_block.resnets.1.", "mid.block_2.")
    if "mid_block.attentions.0." in name:
        coder, rest = name.split(".mid_block.attentions.0.")
        module, _, leaf = rest.rpartition(".")
        return f"{coder}.mid.attn_1.{VAE_ATTENTION[module]}.{leaf}"
    last = len(config.block_out_channels) - 1
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    # The original numbers the decoder's blocks from the full resolution.
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{last - int(match[1])}", name)
    name = name.replace(".resnets.", ".block.").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("downsamplers.0.", "downsample.").replace("upsamplers.0.", "upsample.")
    return name.replace("conv_norm_out", "norm_out")


def openclip_tensor(name: str, tensors: Mapping[str, LazyTensor]) -> LazyTensor | None:
    """transformers' name of a tensor of text encoder 2 -> the tensor of an OpenCLIP file.

    OpenCLIP stores query, key and value projections in one tensor, and the projection transposed.
    """
    if name in OPENCLIP_TOP:
        tensor = tensors.get(OPENCLIP_TOP[name])
        if name == "text_projection.weight" and tensor is not None:
            tensor = tensor.transpose((1, 0))
        return tensor
    match = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    assert match is not None, name
    layer, module, leaf = match.groups()
    prefix = f"transformer.resblocks.{layer}"
    if module in OPENCLIP_LAYER:
        return tensors.get(f"{prefix}.{OPENCLIP_LAYER[module]}.{leaf}")
    joined = tensors.get(f"{prefix}.attn.in_proj_{leaf}")
    if joined is None:
        return None
    third = joined.shape[0] // 3
    place = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj").index(module)
    return joined.rows(place * third, (place + 1) * third)


def is_original(names: Iterable[str]) -> bool:
    """Whether tensor names are those of a whole checkpoint in the original layout."""
    return any(name.startswith(PREFIXES["unet"]) for name in names)


def name_in(component: str, name: str, config: Any) -> str:
    """diffusers' name of a tensor -> the original one, without prefix.

    Args:
      component: "unet", "refiner", "vae" or "controlnet".
    """
    names = {"vae": vae_name, "controlnet": controlnet_name}
    return names.get(component, unet_name)(name, config)


def select(
    component: str,
    tensors: Tensors,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    config: object,
    prefix: str | None = None,
) -> Tensors:
    """Selects one network's tensors from a single file, under diffusers' names.

    Skips tensors that the network does not name, as diffusers does: such files also contain
    training state, EMA copies and markers. A ControlNet's are all returned, because ControlNets of
    other kinds differ by a few tensors.

    Args:
      component: a key of `PREFIXES`.
      shapes: our parameters of the network.
      config: its configuration.
      prefix: of `prefix_of`; None is that of whole checkpoints.
    """
    prefix = PREFIXES[component] if prefix is None else prefix
    inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    names = [torch_name(name, len(want.shape))[0] for name, want in shapes.items()]
    if component == "text_encoder_2":
        found = {name: openclip_tensor(name, inside) for name in names}
    elif component in ("unet", "refiner", "vae", "controlnet"):
        known = {name: name_in(component, name, config) for name in names}
        found = {name: inside.get(theirs) for name, theirs in known.items()}
        if component == "controlnet":
            found |= {name: inside[name] for name in sorted(inside.keys() - known.values())}
    else:
        found = {name: inside.get(name) for name in names}
    if component == "text_encoder" and not any(found.values()):
        # Some trainers omit the `text_model.` prefix.
        found = {name: inside.get(name.removeprefix("text_model.")) for name in names}
    selected = {name: tensor for name, tensor in found.items() if tensor is not None}
    return selected


def prediction_settings(tensors: Tensors, metadata: Mapping[str, str]) -> dict[str, object]:
    """A single file's noise schedule, as keys of `scheduler_config.json`.

    Community checkpoints mark velocity prediction with an empty tensor `v_pred`, zero terminal SNR
    with `ztsnr`, or write `modelspec.prediction_type` into the file's metadata.

    Raises:
      InputError: if the file is marked as an EDM model.
    """
    edm = sorted(name for name in tensors if name.startswith("edm_"))
    if edm:
        raise InputError(
            f"the checkpoint is marked {edm[0]}: EDM schedules are not supported, "
            "expected epsilon or v prediction"
        )
    declared = str(metadata.get("modelspec.prediction_type", "epsilon")).lower()
    velocity = "v_pred" in tensors or declared in ("v", "v_prediction")
    settings: dict[str, object] = {"prediction_type": "v_prediction" if velocity else "epsilon"}
    if "ztsnr" in tensors:
        settings["rescale_betas_zero_snr"] = True
    return settings
