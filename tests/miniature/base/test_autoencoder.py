"""Training the miniature's VAE from the drawing to the folder that diffusers reads."""

import functools
import json

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from instantid_jax.components import network
from miniature.base.architecture import VAE
from miniature.base.autoencoder import (
    FACE_WEIGHT,
    OPPONENT_COLORS,
    WINDOW,
    Options,
    face_weight,
    init,
    make_batches,
    make_loss,
    train_autoencoder,
)
from miniature.base.pictures import Pictures
from miniature.stage import Stage

SMALL = VAE | {"block_out_channels": [8, 8, 8, 8]}


def test_faces_count_more():
    weight = face_weight(jnp.array([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 5.0, 5.0]]), (64, 48))
    assert weight.shape == (2, 64, 48, 1)
    assert weight[0, 20, 10] == weight[0, 59, 29] == FACE_WEIGHT
    assert weight[0, 19, 10] == weight[0, 20, 30] == weight[1, 30, 20] == 1
    np.testing.assert_allclose((weight[0] == FACE_WEIGHT).sum(), 20 * 40)


def test_windows_hold_the_faces_that_their_boxes_tell():
    # A face is where a picture is not black.
    random = np.random.default_rng(0)
    pixels, bboxes = np.zeros((20, 128, 128, 3), np.uint8), np.zeros((20, 4), np.float32)
    for i, (left, top) in enumerate(random.integers(10, 70, (20, 2))):
        bboxes[i] = left, top, left + 40, top + 50
        pixels[i, top : top + 50, left : left + 40] = 1 + i
    batch_at = make_batches(Pictures(pixels, np.array([""] * 20), bboxes), 16, seed=0)
    batch = batch_at(0)
    assert batch["pixels"].shape == (16, WINDOW, WINDOW, 3)
    for window, box in zip(batch["pixels"][..., 0], batch["bboxes"], strict=True):
        left, top, right, bottom = np.clip(box, 0, WINDOW).astype(int)
        assert (window[top:bottom, left:right] > 0).all() and right > left and bottom > top
        assert (window > 0).sum() == (right - left) * (bottom - top)
    whole = batch_at(1)
    assert whole["pixels"].shape == (4, 128, 128, 3)
    assert (whole["bboxes"].T[2] - whole["bboxes"].T[0] == 40).all()


def test_at_first_the_latents_hold_each_direction_of_color_alike():
    # Flat pictures of colours drawn at random, restored by the best linear map from their latents.
    net = network("vae", VAE)
    params = jax.jit(functools.partial(init, net))(jax.random.key(0))
    colors = np.random.default_rng(0).uniform(-1, 1, (200, 4, 4, 3)).astype(np.float32)
    latents = jax.jit(lambda params, x: net.bind(params).encode(x))(
        params, np.repeat(np.repeat(colors, 8, 1), 8, 2)
    )
    x = np.asarray(latents[:, 1:3, 1:3]).reshape(-1, 8)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    y = colors[:, 1:3, 1:3].reshape(-1, 3) @ OPPONENT_COLORS.T
    left = y - x @ np.linalg.lstsq(x, y)[0]
    assert (left.var(0) < 0.05 * y.var(0)).all()


def test_every_parameter_learns():
    net = network("vae", SMALL)
    params = jax.jit(net.init)(jax.random.key(0))
    random = np.random.default_rng(0)
    batch = {
        "pixels": random.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8),
        "bboxes": np.array([[8, 8, 24, 24]] * 2, np.float32),
    }
    gradients, metrics = jax.jit(jax.grad(make_loss(net), has_aux=True))(
        params, batch, jax.random.key(1)
    )
    assert all(np.abs(g).max() > 0 for g in gradients.values())
    assert all(np.isfinite(v) for v in metrics.values())


def test_diffusers_restores_pictures_from_what_is_written(tmp_path, capsys):
    stage = Stage(steps=4, learning_rate=3e-3, warmup_steps=2, ema_decay=0.7)
    options = Options(workdir=tmp_path, pictures=50, batch=8, held_out=50, stage=stage)
    train_autoencoder(SMALL, options)
    told = json.loads(capsys.readouterr().out)
    vae = diffusers.AutoencoderKL.from_pretrained(tmp_path / "vae", torch_dtype=torch.float32)
    with np.load(tmp_path / "held-out" / "00000.npz") as stored:
        pixels = stored["pixels"].astype(np.float32) / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).latent_dist.mode()
        restored = vae.decode(latents).sample.clamp(-1, 1).numpy().transpose(0, 2, 3, 1)
    for name, measured in (
        ("latents_mean", latents.mean((0, 2, 3))),
        ("latents_std", latents.std((0, 2, 3))),
    ):
        np.testing.assert_allclose(measured, vae.config[name], atol=0.01)
    psnr = (10 * np.log10(4 / np.square(restored - pixels).mean((1, 2, 3)))).mean()
    np.testing.assert_allclose(psnr, told["psnr"], atol=0.05)
