"""The classifier of style and background."""

import dataclasses

import jax
from flax import nnx

from instantid_jax.models.layers import GroupNorm, linear
from miniature.evaluation.named import BACKGROUNDS, STYLES
from miniature.faces.networks import EPSILON, GROUPS, DownStage


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Channels and residual blocks after each downsampling by 2."""

    channels: tuple[int, ...] = (16, 32, 64, 96)
    blocks: tuple[int, ...] = (0, 1, 1, 1)


class Classifier(nnx.Module):
    """Classifies style and background: a residual network with global average pooling."""

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        self.stages = nnx.List([])
        before = 3
        for channels, count in zip(config.channels, config.blocks, strict=True):
            self.stages.append(DownStage(before, channels, count, rngs=rngs))
            before = channels
        self.norm_out = GroupNorm(before, GROUPS, eps=EPSILON, rngs=rngs)
        self.style = linear(before, len(STYLES), rngs=rngs)
        self.background = linear(before, len(BACKGROUNDS), rngs=rngs)

    def __call__(self, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, H, W, 3] in [-1, 1] to logits of `STYLES` and `BACKGROUNDS`, [B, n] each."""
        x = self.features(pixels)
        return self.style(x), self.background(x)

    def features(self, pixels: jax.Array) -> jax.Array:
        """[B, H, W, 3] in [-1, 1] to the heads' input, [B, channels[-1]]."""
        x = pixels
        for stage in self.stages:
            x = stage(x)
        return jax.nn.relu(self.norm_out(x)).mean(axis=(1, 2))
