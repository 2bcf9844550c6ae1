"""A VAE's convolutions in a row."""

import functools

import jax
import numpy as np
import pytest

from instantid_jax.components import network
from miniature.base import linear_chain
from miniature.base.architecture import VAE
from miniature.base.linear_chain import apply, decoder_layers, encoder_layers

WIDTHS = [pytest.param([24, 48, 112, 144], marks=pytest.mark.slow), [8, 8, 8, 8]]


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_kernels_are_parts_of_the_vaes(widths):
    net = network("vae", VAE | {"block_out_channels": widths})
    kernels = jax.eval_shape(lambda key: linear_chain.init(net.config, key), jax.random.key(0))
    smaller = []
    for name, kernel in kernels.items():
        whole = net.shapes[f"{name}.kernel"].shape
        assert all(a <= b for a, b in zip(kernel.shape, whole, strict=True))
        if kernel.shape != whole:
            smaller.append(name)
    assert len(smaller) == 4 and {"encoder.conv_out", "decoder.conv_out"} < set(smaller)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_latents_are_smaller_by_downscale(widths):
    config = network("vae", VAE | {"block_out_channels": widths}).config
    kernels = linear_chain.init(config, jax.random.key(0))
    pixels = jax.random.normal(jax.random.key(1), (2, 32, 48, 3))
    latents = apply(encoder_layers(config), kernels, pixels)
    assert latents.shape == (2, 4, 6, VAE["latent_channels"])
    assert apply(decoder_layers(config), kernels, latents).shape == pixels.shape


def test_the_loss_falls():
    config = network("vae", VAE | {"block_out_channels": [8, 8, 16, 32]}).config
    kernels = linear_chain.init(config, jax.random.key(0))
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    batch = {"pixels": blocks.repeat(4, axis=1).repeat(4, axis=2)}
    learn = jax.jit(jax.value_and_grad(functools.partial(linear_chain.loss, config), has_aux=True))
    values = []
    for _ in range(20):
        (value, _), gradients = learn(kernels, batch, None)
        values.append(float(value))
        kernels = {n: k - 0.06 * gradients[n] for n, k in kernels.items()}
    assert values[-1] < 0.8 * values[0]
