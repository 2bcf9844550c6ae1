"""The VAE before training: cosines in, mean colors out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.components import network
from miniature.base import linear_start
from miniature.base.architecture import VAE
from miniature.base.linear_start import LOG_VARIANCE, cosines
from miniature.portraits import draw_random


@pytest.fixture(scope="module")
def pictures():
    drawn = np.stack([np.asarray(draw_random(seed).image) for seed in range(4)])
    return drawn.astype(np.float32) / 127.5 - 1


@pytest.fixture(scope="module")
def cells(pictures):
    """[B, rows, 8, columns, 8, 3]."""
    B, H, W, C = pictures.shape
    return pictures.reshape(B, H // 8, 8, W // 8, 8, C)


def test_latents_are_the_lowest_cosines_and_decode_to_mean_colors(pictures, cells):
    net = network("vae", VAE)
    params = jax.jit(lambda key: linear_start.init(net, key))(jax.random.key(0))
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in net.shapes.items()}

    @jax.jit
    def through(params, pictures):
        vae = net.bind(params)
        moments = vae.moments(pictures)
        return moments, vae.decode(moments[..., :32])

    moments, decoded = through(params, pictures)
    latents, log_variance = np.split(np.asarray(moments), 2, axis=-1)
    wanted = np.einsum("byixjc,nijc->byxn", cells, cosines(8, 32))
    # SiLU is not quite linear, and each picture's own signal is in the norm's statistics.
    for got, want in zip(np.moveaxis(latents, -1, 0), np.moveaxis(wanted, -1, 0), strict=True):
        assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.97
    assert np.linalg.norm(latents - wanted) < 0.2 * np.linalg.norm(wanted)
    np.testing.assert_allclose(log_variance, LOG_VARIANCE, atol=1e-5)
    means = np.broadcast_to(cells.mean((2, 4), keepdims=True), cells.shape)
    decoded = np.asarray(decoded).reshape(cells.shape)
    # Convolutions pad the picture's edges, which differ for that.
    inner = np.s_[:, 1:-1, :, 1:-1]
    error = np.linalg.norm((decoded - means)[inner])
    assert error < 0.2 * np.linalg.norm(means[inner])


def test_cosines_are_orthogonal_and_begin_with_the_means(cells):
    functions = cosines(8, 32).reshape(32, -1)
    products = functions @ functions.T
    np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-12)
    means = np.einsum("byixjc,nijc->byxn", cells, cosines(8, 3))
    np.testing.assert_allclose(
        means, cells.mean((2, 4)) @ linear_start.OPPONENT_COLORS.T, atol=1e-6
    )


def test_narrow_networks_start_with_what_they_have_room_for():
    net = network("vae", VAE | {"block_out_channels": [8, 8, 8, 8]})
    params = linear_start.init(net, jax.random.key(0))
    color = jnp.broadcast_to(jnp.array([0.5, -0.5, 0.1]), (1, 64, 64, 3))
    vae = net.bind(params)
    assert np.isfinite(vae.decode(vae.encode(color))).all()
