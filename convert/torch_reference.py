"""The torch side of `verify`: one denoising step of diffusers' networks with InstantID's parts.

Reads files with torch's and diffusers' readers, and uses none of our networks or name rules.
Source of InstantID's parts: the official repository's ip_adapter/resampler.py and
ip_adapter/attention_processor.py.
"""

import inspect
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import diffusers
import numpy as np
import safetensors.torch
import torch
from diffusers import ControlNetModel, EulerDiscreteScheduler, UNet2DConditionModel
from torch.nn import functional

from convert.diffusers_settings import diffusers_settings
from convert.verification_step import GUIDANCE_SCALE, STEPS, Inputs, Outputs
from instantid_jax.components import Component, ModelSource
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.json_files import write_json

State = dict[str, torch.Tensor]


@torch.no_grad()
def torch_step(model: ModelSource, inputs: Inputs) -> Outputs:
    """One guided step; loads one network at a time.

    Args:
      model: the source of files, settings and sizes.
    """
    # diffusers warns about casts and ignored settings.
    diffusers.utils.logging.set_verbosity_error()
    parts = model.components
    adapter = _adapter(Path(parts["image_proj"].source))
    dim_head = parts["image_proj"].network.config.dim_head
    tokens = resampler(adapter["image_proj"], torch.from_numpy(inputs.embeddings), dim_head)

    scheduler = make_scheduler(ScheduleConfig.from_dict(model.scheduler))
    latents = nchw(inputs.noise) * scheduler.init_noise_sigma
    timestep = scheduler.timesteps[0]
    sample = scheduler.scale_model_input(latents, timestep).repeat(2, 1, 1, 1)
    added = {
        "text_embeds": torch.from_numpy(inputs.pooled),
        "time_ids": torch.from_numpy(inputs.time_ids),
    }
    identitynet = load_network(ControlNetModel, parts["controlnet"])
    down, mid = identitynet(
        sample,
        timestep,
        encoder_hidden_states=tokens,
        controlnet_cond=nchw(inputs.image).repeat(2, 1, 1, 1) / 255,
        added_cond_kwargs=added,
        return_dict=False,
    )
    del identitynet

    unet = load_network(UNet2DConditionModel, parts["unet"])
    install_id_attention(unet, adapter["ip_adapter"], tokens, inputs.ip_adapter_scale)
    output = unet(
        sample,
        timestep,
        encoder_hidden_states=torch.from_numpy(inputs.text),
        added_cond_kwargs=added,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    negative, positive = output.chunk(2)
    guided = negative + GUIDANCE_SCALE * (positive - negative)
    following = scheduler.step(guided, timestep, latents).prev_sample
    return Outputs(
        id_tokens=tokens.numpy(),
        residuals=[nhwc(residual) for residual in (*down, mid)],
        prediction=nhwc(output),
        latents=nhwc(following),
    )


def nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32)).permute(0, 3, 1, 2).contiguous()


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.permute(0, 2, 3, 1).contiguous().numpy()


# -- files ----------------------------------------------------------------------------------------


def read_state(path: Path) -> State:
    """All tensors of a weights file, or of the shards that an index names."""
    if path.suffix == ".json":
        shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        return {n: t for shard in shards for n, t in read_state(path.parent / shard).items()}
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _adapter(path: Path) -> dict[str, State]:
    """The adapter's two halves in float32, nested in a pickle or prefixed in safetensors."""
    state = read_state(path)
    if "image_proj" not in state:
        state = {
            half: {
                name.removeprefix(f"{half}."): tensor
                for name, tensor in state.items()
                if name.startswith(f"{half}.")
            }
            for half in ("image_proj", "ip_adapter")
        }
    return {half: {n: t.float() for n, t in part.items()} for half, part in state.items()}


def load_network(cls: type, component: Component) -> torch.nn.Module:
    """A diffusers network in float32, from a component's file."""
    path = Path(component.source)
    settings = diffusers_settings(component.settings, component.network.config)
    if path.suffix != ".json" and not (path.parent / "config.json").is_file():
        return _from_single_file(cls, path, settings)
    with torch.device("meta"):
        network = cls.from_config(settings)
    state = read_state(path)
    for name in list(state):
        state[name] = state[name].float()
    network.load_state_dict(state, assign=True)
    return network.eval()


def _from_single_file(cls: type, path: Path, settings: Mapping) -> torch.nn.Module:
    """Loads a checkpoint in the original layout by diffusers' conversion."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", {**settings, "_class_name": cls.__name__})
        return cls.from_single_file(
            str(path), config=folder, torch_dtype=torch.float32, local_files_only=True
        ).eval()


def make_scheduler(config: ScheduleConfig) -> EulerDiscreteScheduler:
    """diffusers' Euler scheduler with the checkpoint's schedule."""
    known = inspect.signature(EulerDiscreteScheduler.__init__).parameters
    fields = {name: value for name, value in vars(config).items() if name in known}
    with warnings.catch_warnings():
        # diffusers calls np.array(tensor); torch's __array__ does not know NumPy 2's `copy`.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        scheduler = EulerDiscreteScheduler(**fields)
        scheduler.set_timesteps(STEPS)
    return scheduler


# -- InstantID's parts ----------------------------------------------------------------------------


def resampler(state: State, embeddings: torch.Tensor, dim_head: int) -> torch.Tensor:
    """Face embeddings [B, E] to ID tokens [B, N, D], from the tensors of `image_proj`."""

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        return functional.layer_norm(x, weight.shape, weight, state[f"{name}.bias"])

    x = linear(embeddings, "proj_in")[:, None]
    latents = state["latents"].expand(len(x), -1, -1)
    layer = "layers.0"
    while f"{layer}.0.to_q.weight" in state:
        face, queries = norm(x, f"{layer}.0.norm1"), norm(latents, f"{layer}.0.norm2")
        key, value = linear(torch.cat([face, queries], dim=1), f"{layer}.0.to_kv").chunk(2, dim=-1)
        query = linear(queries, f"{layer}.0.to_q")
        heads = query.shape[-1] // dim_head
        latents = latents + linear(attend(query, key, value, heads), f"{layer}.0.to_out")
        hidden = functional.gelu(linear(norm(latents, f"{layer}.1.0"), f"{layer}.1.1"))
        latents = latents + linear(hidden, f"{layer}.1.3")
        layer = f"layers.{int(layer.split('.')[1]) + 1}"
    return norm(linear(latents, "proj_out"), "norm_out")


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
    """Multi-head attention of [B, L, D] tensors."""
    split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class IDAttention:
    """A cross-attention processor with separate keys and values for text and person."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor, scale: float):
        """key, value: [B, N, D], of the ID tokens."""
        self.key, self.value, self.scale = key, value, scale

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_) -> torch.Tensor:
        query = attn.to_q(hidden_states)
        key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        text = attend(query, key, value, attn.heads)
        person = attend(query, self.key, self.value, attn.heads)
        return attn.to_out[0](text + self.scale * person)


def install_id_attention(
    unet: UNet2DConditionModel, state: State, tokens: torch.Tensor, scale: float
) -> None:
    """Installs each cross-attention's pair from `ip_adapter`, numbered like torch's processors."""
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            key, value = (
                functional.linear(tokens, state[f"{number}.to_{each}_ip.weight"]) for each in "kv"
            )
            module = unet.get_submodule(name.removesuffix(".processor"))
            module.set_processor(IDAttention(key, value, scale))
