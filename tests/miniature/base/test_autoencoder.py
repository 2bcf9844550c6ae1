"""Training the miniature's VAE, from drawn pictures to the folder that diffusers reads."""

import dataclasses
import json
import shutil

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from instantid_jax import embedded
from instantid_jax.components import network
from instantid_jax.errors import InputError
from miniature.base import autoencoder
from miniature.base.architecture import VAE
from miniature.base.autoencoder import (
    FACE_WEIGHT,
    WINDOW,
    Options,
    face_weight,
    init,
    make_batches,
    make_loss,
    train_autoencoder,
)
from miniature.base.perceptual import make_perceptual_error
from miniature.base.pictures import Pictures
from miniature.stage import Stage

SMALL = VAE | {"block_out_channels": [8, 8, 8, 8]}
RECOGNIZER = embedded.FACE_PACK / "recogniser.onnx"


def test_faces_have_more_weight():
    weight = face_weight(jnp.array([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 5.0, 5.0]]), (64, 48))
    assert weight.shape == (2, 64, 48, 1)
    assert weight[0, 20, 10] == weight[0, 59, 29] == FACE_WEIGHT
    assert weight[0, 19, 10] == weight[0, 20, 30] == weight[1, 30, 20] == 1
    np.testing.assert_allclose((weight[0] == FACE_WEIGHT).sum(), 20 * 40)


def test_windows_hold_the_faces_in_their_boxes():
    # Pixels of a face are not black.
    random = np.random.default_rng(0)
    pixels, bboxes = np.zeros((20, 128, 128, 3), np.uint8), np.zeros((20, 4), np.float32)
    for i, (left, top) in enumerate(random.integers(10, 70, (20, 2))):
        bboxes[i] = left, top, left + 40, top + 50
        pixels[i, top : top + 50, left : left + 40] = 1 + i
    batch_at = make_batches(Pictures(pixels, np.array([""] * 20), bboxes), 16, 0, None)
    batch = batch_at(0)
    assert batch["pixels"].shape == (16, WINDOW, WINDOW, 3)
    for window, box in zip(batch["pixels"][..., 0], batch["bboxes"], strict=True):
        left, top, right, bottom = np.clip(box, 0, WINDOW).astype(int)
        assert (window[top:bottom, left:right] > 0).all() and right > left and bottom > top
        assert (window > 0).sum() == (right - left) * (bottom - top)
    whole = batch_at(1)
    assert whole["pixels"].shape == (4, 128, 128, 3)
    assert (whole["bboxes"].T[2] - whole["bboxes"].T[0] == 40).all()


def test_the_gradient_has_the_shapes_of_the_parameters():
    net = network("vae", SMALL)
    fresh = jax.eval_shape(net.init, jax.random.key(0))
    shapes = jax.eval_shape(init, jax.random.key(0), fresh)
    batch = {
        "pixels": np.zeros((2, 32, 32, 3), np.uint8),
        "bboxes": np.zeros((2, 4), np.float32),
        "adversarial": np.array(True),
    }
    learn = jax.grad(make_loss(net, make_perceptual_error(RECOGNIZER)), has_aux=True)
    gradients, metrics = jax.eval_shape(learn, shapes, batch, jax.random.key(1))
    assert {n: g.shape for n, g in gradients.items()} == {n: s.shape for n, s in shapes.items()}
    assert all(metric.shape == () for metric in metrics.values())


@pytest.mark.slow
def test_every_parameter_learns_and_the_discriminator_only_late():
    net = network("vae", SMALL)
    fresh = jax.jit(net.init)
    params = jax.jit(lambda key: init(key, fresh(key)))(jax.random.key(0))
    random = np.random.default_rng(0)
    batch = {
        "pixels": random.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8),
        "bboxes": np.array([[8, 8, 24, 24]] * 2, np.float32),
    }
    learn = jax.jit(jax.grad(make_loss(net, make_perceptual_error(RECOGNIZER)), has_aux=True))
    early, late = (
        learn(params, batch | {"adversarial": np.array(each)}, jax.random.key(1))
        for each in (False, True)
    )
    for gradients, metrics in (early, late):
        assert all(np.isfinite(v) for v in metrics.values())
        for name, gradient in gradients.items():
            moved = np.abs(gradient).max() > 0
            assert moved == (name.startswith("vae.") or gradients is late[0])
    # The encoder's part is not the same, too.
    name = "vae.encoder.conv_in.kernel"
    assert np.abs(early[0][name] - late[0][name]).max() > 1e-3 * np.abs(early[0][name]).max()
    assert early[1]["discriminator"] == 0 < late[1]["discriminator"]


def test_the_discriminator_starts_at_the_given_step():
    pictures = Pictures(
        np.zeros((4, 128, 128, 3), np.uint8), np.array([""] * 4), np.zeros((4, 4), np.float32)
    )
    late = make_batches(pictures, 4, 0, adversarial_from=3)
    never = make_batches(pictures, 4, 0, adversarial_from=None)
    assert [bool(late(step)["adversarial"]) for step in range(5)] == [False] * 3 + [True] * 2
    assert not never(10**6)["adversarial"]


@pytest.mark.slow
def test_diffusers_restores_pictures_from_what_is_written(tmp_path, capsys, monkeypatch):
    stage = Stage(steps=4, learning_rate=3e-3, warmup_steps=2, ema_decay=0.7)
    options = Options(
        workdir=tmp_path,
        latent_channels=16,
        adversarial_from=2,
        pictures=50,
        batch=8,
        held_out=50,
        linear=stage,
        stage=stage,
    )
    train_autoencoder(SMALL, options)
    reported = json.loads(capsys.readouterr().out)
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
    np.testing.assert_allclose(psnr, reported["psnr"], atol=0.05)
    assert vae.config.latent_channels == 16 and 0 < reported["sharpness"] < 2

    # Another run may start from this one; its moments are measured again.
    from_first = dataclasses.replace(options, workdir=tmp_path / "again", start=tmp_path / "vae")
    shutil.copytree(tmp_path / "held-out", from_first.workdir / "held-out")
    shutil.copytree(tmp_path / "pictures", from_first.workdir / "pictures")
    with monkeypatch.context() as patch:
        patch.setattr(autoencoder, "train", lambda stage, folder, init, *_: init(jax.random.key(0)))
        train_autoencoder(SMALL, from_first)
    again = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(again["psnr"], reported["psnr"], atol=0.05)
    file = "vae/diffusion_pytorch_model.safetensors"
    assert (from_first.workdir / file).read_bytes() == (tmp_path / file).read_bytes()
    # A run resumes only with what it started from.
    for changed in ({"start": from_first.start}, {"adversarial_from": 3}):
        with pytest.raises(InputError, match="data"):
            train_autoencoder(SMALL, dataclasses.replace(options, **changed))
    with pytest.raises(InputError, match="other sizes"):
        train_autoencoder(SMALL, dataclasses.replace(from_first, latent_channels=24))
