"""The VAE before training: principal components in, and nearly what they say out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.components import network
from miniature.base import component_code, gated_decoder
from miniature.base.architecture import VAE
from miniature.base.component_code import LOG_VARIANCE, principal_components
from miniature.portraits import draw_random


@pytest.fixture(scope="module")
def pixels():
    return np.stack([np.asarray(draw_random(seed).image) for seed in range(8)])


def cells(pixels):
    """[B, rows, 8, columns, 8, 3] in [-1, 1]."""
    B, H, W, C = pixels.shape
    return (pixels.astype(np.float32) / 127.5 - 1).reshape(B, H // 8, 8, W // 8, 8, C)


def coded(code, pixels):
    """Latents [B, rows, columns, C], and the cells that they stand for."""
    latents = np.einsum("byixjc,nijc->byxn", cells(pixels), code.analysis)
    return latents, np.einsum("byxn,nijc->byixjc", latents, code.synthesis)


def test_no_linear_code_leaves_less_than_principal_components(pixels):
    code = principal_components(pixels, 8, 32)
    latents, restored = coded(code, pixels)
    flat = cells(pixels).swapaxes(2, 3).reshape(-1, 192)
    left = np.square(np.linalg.svd(flat, compute_uv=False)[32:]).sum()
    np.testing.assert_allclose(np.square(restored - cells(pixels)).sum(), left, rtol=1e-3)
    np.testing.assert_allclose(
        np.sqrt(np.square(latents).mean((0, 1, 2))), code.deviations, rtol=1e-3
    )
    assert (np.diff(code.deviations) <= 0).all()


@functools.cache
def net(latent):
    return network("vae", VAE | {"latent_channels": latent})


@functools.partial(jax.jit, static_argnums=0)
def restored(latent, params, pictures):
    """Moments, and what is decoded from their mean."""
    vae = net(latent).bind(params)
    moments = vae.moments(pictures)
    return moments, vae.decode(moments[..., :latent])


@pytest.mark.parametrize("latent", [16, 32])
def test_a_fresh_vae_restores_what_components_hold(pixels, latent):
    params = jax.jit(lambda key: component_code.init(net(latent), key, pixels))(jax.random.key(0))
    assert {k: v.shape for k, v in params.items()} == {
        k: v.shape for k, v in net(latent).shapes.items()
    }
    moments, decoded = restored(latent, params, pixels / np.float32(127.5) - 1)
    means, log_variances = np.split(np.asarray(moments), 2, axis=-1)
    np.testing.assert_allclose(log_variances, LOG_VARIANCE, atol=1e-4)
    latents, wanted = coded(principal_components(pixels, 8, latent), pixels)
    for mean, each in zip(np.moveaxis(means, -1, 0), np.moveaxis(latents, -1, 0), strict=True):
        assert np.corrcoef(mean.ravel(), each.ravel())[0, 1] > 0.95
    # What a decoder loses that gives all pixels of a cell the same color.
    flat = np.square(wanted - wanted.mean((2, 4), keepdims=True)).mean()
    assert np.square(np.reshape(decoded, wanted.shape) - wanted).mean() < 0.35 * flat


@pytest.mark.slow
def test_it_is_the_gates_that_tell_pixels_of_a_cell_apart(pixels, monkeypatch):
    def error():
        params = component_code.init(net(16), jax.random.key(0), pixels)
        _, decoded = restored(16, params, pixels / np.float32(127.5) - 1)
        _, wanted = coded(principal_components(pixels, 8, 16), pixels)
        return np.square(np.reshape(decoded, wanted.shape) - wanted).mean()

    opening = error()
    # Gates that never open.
    monkeypatch.setattr(gated_decoder, "GATE", 0.0)
    assert error() > 3 * opening


def test_networks_too_narrow_for_gates_are_finite():
    net = network("vae", VAE | {"block_out_channels": [8, 8, 8, 8]})
    pixels = np.stack([np.asarray(draw_random(seed).image) for seed in range(2)])
    params = component_code.init(net, jax.random.key(0), pixels)
    vae = net.bind(params)
    color = jnp.broadcast_to(jnp.array([0.5, -0.5, 0.1]), (1, 32, 32, 3))
    assert np.isfinite(vae.decode(vae.encode(color))).all()
