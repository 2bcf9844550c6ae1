"""Times sampling in PyTorch: a child of `sampling`.

Uses diffusers' UNet, ControlNet and VAE and transformers' text encoders with random weights, an ID
attention processor, scaled_dot_product_attention and channels-last layout, both eager and with
full-graph `torch.compile`. The UNet's keys and values of the ID tokens are precomputed; diffusers
recomputes the other step-independent values in every step.
"""

import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, ControlNetModel, EulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.alternation import take_turns
from benchmarks.cases import ID_TOKENS, TOKENS, Case, Job
from benchmarks.sizes import FULL, SMALL
from convert.diffusers_settings import diffusers_settings
from convert.torch_reference import IDAttention
from instantid_jax.components import network
from instantid_jax.models.controlnet import settings_like_unet
from instantid_jax.weights.sdxl_base import SCHEDULER

MODES = ("eager", "torch.compile")
GUIDANCE_SCALE, STRENGTH = 5.0, 0.8


class Peer:
    """InstantID of one size, on this process's device."""

    def __init__(self, job: Job):
        # Silences warnings about casts.
        diffusers.utils.logging.set_verbosity_error()
        settings = self.settings = SMALL if job.small else FULL
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = getattr(torch, job.dtype)
        self.vae_dtype = getattr(torch, job.vae_dtype)
        identitynet = settings_like_unet(settings["unet"])
        self.unet = self._network(UNet2DConditionModel, "unet", settings["unet"])
        self.controlnet = self._network(ControlNetModel, "controlnet", identitynet)
        self.tokens = self.random(1, ID_TOKENS, self.unet.config.cross_attention_dim)
        self.scheduler = EulerDiscreteScheduler.from_config(SCHEDULER)

    @functools.cached_property
    def vae(self) -> nn.Module:
        with torch.device(self.device):
            vae = AutoencoderKL.from_config(_with_blocks(self.settings["vae"]))
        return self._placed(vae, self.vae_dtype)

    @functools.cached_property
    def text_encoders(self) -> list[nn.Module]:
        with torch.device(self.device):
            return [
                kind(clip_config(name, self.settings[name])).to(self.dtype).eval()
                for kind, name in (
                    (CLIPTextModel, "text_encoder"),
                    (CLIPTextModelWithProjection, "text_encoder_2"),
                )
            ]

    def _network(self, kind: type, name: str, settings: dict[str, Any]) -> nn.Module:
        config = diffusers_settings(settings, network(name, settings).config)
        with torch.device(self.device):
            return self._placed(kind.from_config(config), self.dtype)

    def _placed(self, net: nn.Module, dtype: torch.dtype) -> nn.Module:
        return net.to(self.device, dtype, memory_format=torch.channels_last).eval()

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def install_id_attention(self, rows: int) -> None:
        """Installs attention with precomputed keys and values of the ID tokens for `rows` rows."""
        for name in self.unet.attn_processors:
            if name.endswith("attn2.processor"):
                attention = self.unet.get_submodule(name.removesuffix(".processor"))
                pair = (self.random(rows, ID_TOKENS, attention.inner_dim) for _ in "kv")
                attention.set_processor(IDAttention(*pair, STRENGTH))

    @functools.cached_property
    def _functions(self) -> list[tuple[nn.Module, str, dict[str, Callable]]]:
        """The functions to switch between modes, with their variants."""
        eager = [
            (net, name, getattr(net, name))
            for net, name in (
                (self.unet, "forward"),
                (self.controlnet, "forward"),
                (self.vae, "decode"),
            )
        ]
        return [
            (net, name, dict(zip(MODES, (function, _compiled(function)), strict=True)))
            for net, name, function in eager
        ]

    def use(self, mode: str) -> None:
        """Switches to a mode of `MODES`."""
        for net, name, functions in self._functions:
            setattr(net, name, functions[mode])

    @torch.no_grad()
    def text(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden and pooled states [rows, ...] of arbitrary token ids."""
        ids = torch.ones(rows, TOKENS, dtype=torch.long, device=self.device)
        first, second = (net(ids, output_hidden_states=True) for net in self.text_encoders)
        hidden = [each.hidden_states[-2] for each in (first, second)]
        return torch.cat(hidden, dim=-1), second.text_embeds

    @torch.no_grad()
    def denoise(self, case: Case, hidden: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        rows, side = len(hidden), case.size // 8
        channels = self.unet.config.in_channels
        self.scheduler.set_timesteps(case.steps, device=self.device)
        latents = self.random(case.batch, channels, side, side) * self.scheduler.init_noise_sigma
        image = self.random(rows, 3, case.size, case.size)
        sizes = torch.tensor([case.size, case.size, 0, 0, case.size, case.size])
        added = {
            "text_embeds": pooled,
            "time_ids": sizes.to(self.device, self.dtype).expand(rows, 6),
        }
        tokens = self.tokens.repeat(rows, 1, 1)
        for timestep in self.scheduler.timesteps:
            sample = latents.repeat(2, 1, 1, 1) if case.guidance else latents
            sample = self.scheduler.scale_model_input(sample, timestep)
            sample = sample.contiguous(memory_format=torch.channels_last)
            down, mid = self.controlnet(
                sample,
                timestep,
                encoder_hidden_states=tokens,
                controlnet_cond=image,
                conditioning_scale=STRENGTH,
                added_cond_kwargs=added,
                return_dict=False,
            )
            (output,) = self.unet(
                sample,
                timestep,
                encoder_hidden_states=hidden,
                added_cond_kwargs=added,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
                return_dict=False,
            )
            if case.guidance:
                negative, positive = output.chunk(2)
                output = negative + GUIDANCE_SCALE * (positive - negative)
            latents = self.scheduler.step(output, timestep, latents, return_dict=False)[0]
        return latents

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decodes one image at a time, to uint8 on the host."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae_dtype)
        images = [self.vae.decode(each, return_dict=False)[0] for each in scaled.split(1)]
        pixels = (torch.cat(images) / 2 + 0.5).clamp(0, 1) * 255
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu()

    def call(self, case: Case, parts: dict[str, float] | None = None) -> float:
        """Seconds of an image; collecting those of its `parts` synchronizes after each."""

        def noted(name: str, result: Any) -> Any:
            if parts is not None:
                if self.device == "cuda":
                    torch.cuda.synchronize()
                parts[name] = time.perf_counter() - start - sum(parts.values())
            return result

        start = time.perf_counter()
        rows = 2 * case.batch if case.guidance else case.batch
        text = noted("text", self.text(rows))
        latents = noted("steps", self.denoise(case, *text))
        noted("decode", self.decode(latents))
        return time.perf_counter() - start


def measure(job: Job) -> Iterator[Any]:
    """Yields the versions; then, for each case, the first images' seconds and results by mode."""
    peer = Peer(job)
    yield {"versions": {name: version(name) for name in ("torch", "diffusers", "transformers")}}
    for case in job.cases:
        first = {}
        peer.install_id_attention(2 * case.batch if case.guidance else case.batch)
        for mode in MODES:
            peer.use(mode)
            first[mode] = {"first_image_seconds": round(peer.call(case), 3)}
        yield first
        results = []
        for mode in MODES:
            peer.use(mode)
            about = dataclasses.asdict(case) | {"mode": mode} | first[mode]
            results.append(about | _measure_case(peer, case, job.repeats))
        yield results


def _measure_case(peer: Peer, case: Case, repeats: int) -> dict[str, Any]:
    if peer.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    images = [peer.call(case) for _ in range(repeats)]
    parts: list[dict[str, float]] = [{} for _ in range(repeats)]
    for each in parts:
        peer.call(case, each)
    seconds = {name: statistics.median(each[name] for each in parts) for name in parts[0]}
    seconds["image"] = statistics.median(images)
    memory = torch.cuda.max_memory_allocated() if peer.device == "cuda" else 0
    return {
        "seconds": {name: round(value, 5) for name, value in seconds.items()},
        "fastest_image_seconds": round(min(images), 5),
        "peak_memory_gb": round(memory / 1e9, 2) or None,
    }


def _compiled(function: Callable) -> Callable:
    return torch.compile(function, fullgraph=True, dynamic=False)


def clip_config(name: str, settings: dict[str, Any]) -> CLIPTextConfig:
    """Writes out every setting, because transformers' defaults are not CLIP-L's."""
    return CLIPTextConfig(**dataclasses.asdict(network(name, settings).config))


def _with_blocks(vae: dict[str, Any]) -> dict[str, Any]:
    """A VAE's settings, with SDXL's as defaults."""
    return {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "scaling_factor": 0.13025,
    } | vae


if __name__ == "__main__":
    take_turns(measure(Job.from_json(sys.argv[1])))
