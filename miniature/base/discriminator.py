"""The patch discriminator of the VAE's adversarial loss."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from instantid_jax.models.layers import GroupNorm, conv3x3
from instantid_jax.params import Network, Params

# Largest factor that scales the adversarial gradient to the length of the error's gradient.
LARGEST_FACTOR = 1e4


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Channels after each downsampling by 2."""

    channels: tuple[int, ...] = (32, 64, 96)
    groups: int = 8
    # Negative slope of the activations.
    leak: float = 0.2


class Discriminator(nnx.Module):
    """Scores how much each patch of a picture looks like a drawn one (Isola et al. 2017)."""

    def __init__(self, config: DiscriminatorConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.convs, self.norms = nnx.List([]), nnx.List([])
        before = 3
        for channels in config.channels:
            self.convs.append(nnx.Conv(before, channels, (4, 4), strides=2, padding=1, rngs=rngs))
            self.norms.append(GroupNorm(channels, config.groups, eps=1e-5, rngs=rngs))
            before = channels
        self.conv_out = conv3x3(before, 1, rngs=rngs)

    def __call__(self, pictures: jax.Array) -> jax.Array:
        """[B, H, W, 3] in [-1, 1] to logits [B, H/8, W/8, 1]."""
        x = pictures
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.leaky_relu(norm(conv(x)), self.config.leak)
        return self.conv_out(x)


DISCRIMINATOR = Network(Discriminator, DiscriminatorConfig())


def adversarial_losses(
    params: Params, restored: jax.Array, drawn: jax.Array, error: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Adversarial losses of the decoder and the discriminator.

    Args:
      params: the discriminator's parameters.
      restored: [B, H, W, 3], the decoder's output.
      drawn: [B, H, W, 3], the originals.
      error: the reconstruction error, from restored pictures to a scalar. The decoder's loss is
        scaled so that its gradient in the pixels is as long as the error's.
    Returns:
      the scalar losses of decoder and discriminator. The decoder's has no gradient with respect to
      `params`, the discriminator's none with respect to `restored`.
    Source: Esser et al. 2021 (taming-transformers), equations 6 and 7; Lim & Ye 2017 (hinge).
    """
    frozen = DISCRIMINATOR.bind(jax.lax.stop_gradient(params))

    def deceive(restored: jax.Array) -> jax.Array:
        return -frozen(restored).mean()

    lengths = [jnp.linalg.norm(jax.grad(each)(restored)) for each in (error, deceive)]
    factor = jnp.clip(lengths[0] / (lengths[1] + 1e-8), 0, LARGEST_FACTOR)
    generating = jax.lax.stop_gradient(factor) * deceive(restored)

    learning = DISCRIMINATOR.bind(params)
    logits = learning(jnp.concatenate([drawn, jax.lax.stop_gradient(restored)]))
    of_drawn, of_restored = jnp.split(logits, 2)
    discriminating = jax.nn.relu(1 - of_drawn).mean() + jax.nn.relu(1 + of_restored).mean()
    return generating, discriminating / 2
