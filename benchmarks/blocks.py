"""`python -m benchmarks.blocks`: times each kind of UNet block here and in PyTorch, on a CPU.

SDXL's blocks at full width, with the shapes of a 256-pixel image with guidance, in float32. Both
sides have the same weights and inputs and take turns in this process. Both get the keys and values
of text and ID precomputed, so that the comparison covers the work of a denoising step only.
"""

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn import functional

from benchmarks import recording
from benchmarks.recording import command, environment
from benchmarks.unet_parts import PARTS, UNET, UNetPart
from convert.diffusers_settings import diffusers_settings
from instantid_jax.components import is_id_branch
from instantid_jax.models.attention import DecoupledKeysValues
from instantid_jax.params import Network, Params
from instantid_jax.weights.names import to_jax
from instantid_jax.weights.sdxl_base import SETTINGS
from instantid_jax.weights.tensors import LazyTensor

RESULTS = recording.RESULTS / "blocks.json"
ROWS, SIDE = 2, 32


def main(repeats: int = 9, blocks: tuple[str, ...] = tuple(PARTS), record: bool = False) -> None:
    """Times every block.

    Args:
      repeats: number of timed calls of each side; the median is reported.
      blocks: the blocks to time.
      record: write the result to benchmarks/results/blocks.json.
    """
    about = environment("jax", "jaxlib", "flax", "torch", "diffusers")
    result = {
        "blocks": {path: measure(PARTS[path], repeats) for path in blocks},
        **about,
        "torch_threads": torch.get_num_threads(),
        "command": command("benchmarks.blocks"),
    }
    print(json.dumps(result, indent=1))
    if record:
        recording.write(RESULTS, result)


def measure(part: UNetPart, repeats: int) -> dict[str, float]:
    """Median milliseconds of both sides, their ratio, and the relative error of the outputs."""
    theirs, ours = draw(part.path), part.network
    params = to_params(theirs, ours, part.path)
    random = np.random.default_rng(0)
    x, temb, context, skips = jax.tree.map(
        lambda leaf: random.standard_normal(leaf.shape, np.float32),
        part.inputs(ours, ROWS, SIDE, jnp.dtype("float32")),
    )
    attentions = [module for name, module in theirs.named_modules() if name.endswith("attn2")]
    pairs = jax.tree.leaves(context, is_leaf=lambda each: isinstance(each, DecoupledKeysValues))
    for attention, pair in zip(attentions, pairs, strict=True):
        attention.set_processor(ReadyAttention(pair))

    run = jax.jit(functools.partial(part.run, ours))
    arguments = jax.device_put((params, x, temb, context, skips))
    sides = {
        "jax": lambda: jax.block_until_ready(run(*arguments)),
        "torch": torch_call(part, theirs, x, temb, skips),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    outputs: dict[str, Any] = {}
    # Two warm-up turns, the first of which compiles.
    for turn in range(-2, repeats):
        for side, call in sides.items():
            start = time.perf_counter()
            outputs[side] = call()
            if turn >= 0:
                seconds[side].append(time.perf_counter() - start)
    mine, other = outputs["jax"], outputs["torch"].permute(0, 2, 3, 1).numpy()
    mine = np.asarray(mine[0] if isinstance(mine, tuple) else mine)
    ms = {side: 1000 * statistics.median(each) for side, each in seconds.items()}
    return {
        "jax_ms": round(ms["jax"], 1),
        "torch_ms": round(ms["torch"], 1),
        "ratio": round(ms["jax"] / ms["torch"], 3),
        "error": float(f"{np.linalg.norm(mine - other) / np.linalg.norm(other):.1e}"),
    }


@torch.no_grad()
def draw(path: str) -> nn.Module:
    """The diffusers module at `path` with weights of unit gain; the rest is never allocated."""
    with torch.device("meta"):
        whole = UNet2DConditionModel.from_config(diffusers_settings(SETTINGS["unet"], UNET.config))
    part = whole.get_submodule(path).to_empty(device="cpu").eval().requires_grad_(False)
    torch.manual_seed(0)
    for name, weight in part.named_parameters():
        if weight.ndim == 1:
            weight.fill_(name.endswith("weight"))
        else:
            weight.normal_(std=weight[0].numel() ** -0.5)
    return part.to(memory_format=torch.channels_last)


def to_params(theirs: nn.Module, ours: Network, path: str) -> Params:
    """Converts the module's weights; the ID branch is unused here, so its weights are zero."""
    shapes = {name: shape for name, shape in ours.shapes.items() if not is_id_branch(name)}
    tensors = {
        name: LazyTensor(tuple(tensor.shape), np.dtype("float32"), tensor.contiguous().numpy)
        for name, tensor in theirs.state_dict().items()
    }
    params = {
        name: jnp.asarray(tensor.read()) for name, tensor in to_jax(tensors, shapes, path).items()
    }
    return params | {n: jnp.zeros(s.shape) for n, s in ours.shapes.items() if n not in shapes}


class ReadyAttention:
    """A cross-attention processor with precomputed keys and values of text and ID."""

    def __init__(self, context: DecoupledKeysValues):
        self.text, self.person = (
            [torch.from_numpy(each).transpose(1, 2).contiguous() for each in pair]
            for pair in context
        )

    def __call__(self, attn: nn.Module, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        attend = functional.scaled_dot_product_attention
        hidden = attend(query, *self.text) + attend(query, *self.person)
        return attn.to_out[0](hidden.transpose(1, 2).flatten(2))


def torch_call(
    part: UNetPart, block: nn.Module, x: np.ndarray, temb: np.ndarray, skips: list[np.ndarray]
) -> Callable[[], torch.Tensor]:
    """Returns a call of diffusers' block on channels-last feature maps."""
    hidden, *taken = (torch.from_numpy(each).permute(0, 3, 1, 2) for each in (x, *skips[-3:]))
    time_embedding = torch.from_numpy(temb)
    # The processors have their keys and values, but the blocks require a context to pass on.
    attends = any(name.endswith("attn2") for name, _ in block.named_modules())
    context = {"encoder_hidden_states": torch.zeros(ROWS, 1, 1)} if attends else {}

    @torch.no_grad()
    def call() -> torch.Tensor:
        if "attentions" in part.path:
            return block(hidden, **context, return_dict=False)[0]
        if part.skips:
            return block(hidden, tuple(taken), time_embedding, **context)
        output = block(hidden, time_embedding, **context)
        return output[0] if isinstance(output, tuple) else output

    return call


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.blocks")
