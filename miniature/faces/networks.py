"""The face pack's networks and the judge."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from instantid_jax.models.layers import (
    GroupNorm,
    conv1x1,
    conv3x3,
    layer_norm,
    linear,
    upsample_nearest,
)

GROUPS = 8
EPSILON = 1e-5
# The judge's tokens.
TOKENS = 14 * 14
# The detector's strides, anchors per cell, and the factor by which it pools its input.
STRIDES, ANCHORS, POOL = (8, 16, 32), 2, 4


@dataclasses.dataclass(frozen=True)
class RecognizerConfig:
    """Channels and blocks at sides of 28, 14 and 7."""

    stem: int = 16
    channels: tuple[int, ...] = (32, 96, 160)
    blocks: tuple[int, ...] = (1, 1, 2)
    last: int = 32
    embedding: int = 512


class Recognizer(nnx.Module):
    """Embeds the identity of a crop: a residual network without global pooling."""

    def __init__(self, config: RecognizerConfig, *, rngs: nnx.Rngs):
        self.conv_in = conv3x3(3, config.stem, stride=2, rngs=rngs)
        self.stages = nnx.List([])
        before = config.stem
        for channels, count in zip(config.channels, config.blocks, strict=True):
            self.stages.append(DownStage(before, channels, count, rngs=rngs))
            before = channels
        self.norm_out = GroupNorm(before, GROUPS, eps=EPSILON, rngs=rngs)
        self.conv_out = conv1x1(before, config.last, rngs=rngs)
        self.embedding = linear(config.last * 7 * 7, config.embedding, rngs=rngs)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """[B, 112, 112, 3] in [-1, 1] to [B, 512], not normalized."""
        x = jax.nn.relu(self.conv_in(pixels))
        for stage in self.stages:
            x = stage(x)
        x = self.conv_out(jax.nn.relu(self.norm_out(x)))
        return self.embedding(x.reshape(len(x), -1))


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """Sizes of the mixer, which has 14 x 14 tokens."""

    stem: int = 32
    features: int = 160
    token_features: int = 112
    depth: int = 5
    # Channels of each token before the embedding layer.
    narrow: int = 8
    embedding: int = 512


class Judge(nnx.Module):
    """Embeds the identity of a crop: an MLP-Mixer (Tolstikhin et al. 2021)."""

    def __init__(self, config: JudgeConfig, *, rngs: nnx.Rngs):
        self.conv_in = conv3x3(3, config.stem, stride=2, rngs=rngs)
        self.conv_mid = conv3x3(config.stem, 2 * config.stem, stride=2, rngs=rngs)
        self.patches = nnx.Conv(
            2 * config.stem, config.features, (2, 2), strides=2, padding=0, rngs=rngs
        )
        self.blocks = nnx.List([MixerBlock(config, rngs=rngs) for _ in range(config.depth)])
        self.norm_out = layer_norm(config.features, rngs=rngs)
        self.narrow = linear(config.features, config.narrow, rngs=rngs)
        self.embedding = linear(TOKENS * config.narrow, config.embedding, rngs=rngs)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """[B, 112, 112, 3] in [-1, 1] to [B, 512], not normalized."""
        x = jax.nn.relu(self.conv_mid(jax.nn.relu(self.conv_in(pixels))))
        x = self.patches(x)
        x = x.reshape(len(x), TOKENS, -1)
        for block in self.blocks:
            x = block(x)
        return self.embedding(self.narrow(self.norm_out(x)).reshape(len(x), -1))


class MixerBlock(nnx.Module):
    """Mixes across tokens, then across the features of each token."""

    def __init__(self, config: JudgeConfig, *, rngs: nnx.Rngs):
        self.norm1 = layer_norm(config.features, rngs=rngs)
        self.tokens_in = linear(TOKENS, config.token_features, rngs=rngs)
        self.tokens_out = linear(config.token_features, TOKENS, rngs=rngs)
        self.norm2 = layer_norm(config.features, rngs=rngs)
        self.features_in = linear(config.features, 2 * config.features, rngs=rngs)
        self.features_out = linear(2 * config.features, config.features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, 196, D] to [B, 196, D]."""
        across = jnp.swapaxes(self.norm1(x), 1, 2)
        across = self.tokens_out(jax.nn.relu(self.tokens_in(across)))
        x = x + jnp.swapaxes(across, 1, 2)
        return x + self.features_out(jax.nn.relu(self.features_in(self.norm2(x))))


class DownStage(nnx.Module):
    """Downsamples by 2, then applies residual blocks."""

    def __init__(self, channels_in: int, channels: int, blocks: int, *, rngs: nnx.Rngs):
        self.down = conv3x3(channels_in, channels, stride=2, rngs=rngs)
        self.blocks = nnx.List([ResidualBlock(channels, rngs=rngs) for _ in range(blocks)])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.down(x)
        for block in self.blocks:
            x = block(x)
        return x


class ResidualBlock(nnx.Module):
    """Two convolutions, each preceded by norm and activation (He et al. 2016)."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(channels, GROUPS, eps=EPSILON, rngs=rngs)
        self.conv1 = conv3x3(channels, channels, rngs=rngs)
        self.norm2 = GroupNorm(channels, GROUPS, eps=EPSILON, rngs=rngs)
        self.conv2 = conv3x3(channels, channels, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.conv1(jax.nn.relu(self.norm1(x)))
        return x + self.conv2(jax.nn.relu(self.norm2(h)))


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """Channels and blocks of each stride, and the channels of the heads.

    One cell of the last stride predicts all keypoints of a large face, so this stride and the
    heads are wide.
    """

    channels: tuple[int, ...] = (16, 32, 96)
    blocks: tuple[int, ...] = (1, 1, 3)
    common: int = 64


class Detector(nnx.Module):
    """Detects faces with a feature pyramid of three strides."""

    def __init__(self, config: DetectorConfig, *, rngs: nnx.Rngs):
        self.stages = nnx.List([])
        before = 3
        for channels, count in zip(config.channels, config.blocks, strict=True):
            self.stages.append(DownStage(before, channels, count, rngs=rngs))
            before = channels
        self.lateral = nnx.List([conv1x1(c, config.common, rngs=rngs) for c in config.channels])
        self.heads = nnx.List([DetectorHead(config.common, rngs=rngs) for _ in STRIDES])

    def __call__(self, pixels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[B, H, W, 3], (RGB - 127.5) / 128, with sides that are multiples of 32.

        Returns:
          Logits [B, N], boxes [B, N, 4] (left, top, right, bottom) and keypoints [B, N, 10] of N
          anchors, in strides from the cell's corner. The order is stride 8, 16, 32, each row by
          row, two anchors per cell.
        """
        return self.pooled(nnx.avg_pool(pixels, (POOL, POOL), (POOL, POOL)))

    def pooled(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Same as `__call__`, for pictures pooled by `POOL`."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        found, coarser = [], None
        for i in reversed(range(len(maps))):
            x = self.lateral[i](maps[i])
            if coarser is not None:
                x = x + upsample_nearest(coarser, x.shape[1:3])
            coarser = x
            found.insert(0, self.heads[i](x))
        return tuple(jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))


class DetectorHead(nnx.Module):
    """Predicts scores, boxes and keypoints for the cells of one stride."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = conv3x3(channels, channels, rngs=rngs)
        self.score = conv1x1(channels, ANCHORS, rngs=rngs)
        self.box = conv1x1(channels, 4 * ANCHORS, rngs=rngs)
        self.kps = conv1x1(channels, 10 * ANCHORS, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = jax.nn.relu(self.conv(x))
        score, box, kps = self.score(x), self.box(x), self.kps(x)
        return (
            score.reshape(len(x), -1),
            box.reshape(len(x), -1, 4),
            kps.reshape(len(x), -1, 10),
        )


class TraitHeads(nnx.Module):
    """Predicts traits from an embedding; used only in training."""

    def __init__(self, config: tuple[int, int, int], *, rngs: nnx.Rngs):
        """config: sizes of the embedding, of the numbers, and of all kinds' choices in total."""
        embedding, numbers, choices = config
        self.numbers = linear(embedding, numbers, rngs=rngs)
        self.choices = linear(embedding, choices, rngs=rngs)

    def __call__(self, embedding: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.numbers(embedding), self.choices(embedding)


def normalized(x: jax.Array) -> jax.Array:
    """Scales to unit length along the last axis."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)
