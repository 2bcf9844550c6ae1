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
    BRANCH_SCALE,
    BRANCHES,
    FACE_WEIGHT,
    Options,
    as_trained,
    face_weight,
    is_branch_end,
    make_batches,
    make_loss,
    scaled,
    texture,
    train_autoencoder,
)
from miniature.base.perceptual import make_perceptual_error
from miniature.base.pictures import Pictures
from miniature.stage import Stage

SMALL = VAE | {"block_out_channels": [8, 8, 8, 8]}
RECOGNIZER = embedded.FACE_PACK / "recogniser.onnx"


def test_faces_have_more_weight():
    boxes = [[[10.0, 20, 30, 60], [np.nan] * 4], [[0.0, 0, 5, 5], [30, 40, 34, 50]]]
    weight = face_weight(jnp.array(boxes), (64, 48))
    assert weight.shape == (2, 64, 48, 1)
    assert weight[0, 20, 10] == weight[0, 59, 29] == FACE_WEIGHT
    assert weight[0, 19, 10] == weight[0, 20, 30] == weight[1, 30, 20] == 1
    np.testing.assert_allclose((weight == FACE_WEIGHT).sum((1, 2, 3)), [20 * 40, 25 + 40])


def test_batches_are_pictures_with_their_boxes():
    pixels = (
        np.zeros((20, 128, 128, 3), np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None, None]
    )
    bboxes = np.arange(20, dtype=np.float32)[:, None, None] + np.arange(4, dtype=np.float32)
    batch_at = make_batches(Pictures(pixels, np.array([""] * 20), bboxes), 16, 0)
    first, again, second = (batch_at(step) for step in (0, 0, 1))
    assert first["pixels"].shape == (16, 128, 128, 3)
    np.testing.assert_array_equal(first["pixels"][:, 0, 0, 0], first["bboxes"][:, 0, 0])
    np.testing.assert_array_equal(first["pixels"], again["pixels"])
    assert (first["pixels"] != second["pixels"]).any()


def test_only_the_branches_of_the_decoder_are_trained():
    net = network("vae", SMALL)
    vae = net.init(jax.random.key(0))
    trained = as_trained(vae)
    restored = scaled(trained)
    assert restored.keys() == vae.keys()
    for name, value in vae.items():
        np.testing.assert_allclose(restored[name], value, rtol=1e-6)

    def total(trained):
        return sum(value.sum() for value in scaled(trained).values())

    gradients = jax.grad(total)(trained)
    names = {name for name, gradient in gradients.items() if np.any(gradient)}
    assert names == {name for name in vae if BRANCHES.search(name)}
    assert all(name.startswith("decoder.") for name in names)
    ends = {name for name in names if is_branch_end(name)}
    assert {float(gradients[name].ravel()[0]) for name in ends} == {np.float32(BRANCH_SCALE)}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in ends} == {"conv2", "0"}


def test_the_gradient_has_the_shapes_of_the_parameters():
    net = network("vae", SMALL)
    fresh = jax.eval_shape(net.init, jax.random.key(0))
    shapes = jax.eval_shape(as_trained, fresh)
    batch = {
        "pixels": np.zeros((2, 32, 32, 3), np.uint8),
        "bboxes": np.zeros((2, 1, 4), np.float32),
    }
    learn = jax.grad(make_loss(net, make_perceptual_error(RECOGNIZER)), has_aux=True)
    gradients, metrics = jax.eval_shape(learn, shapes, batch, jax.random.key(1))
    assert {n: g.shape for n, g in gradients.items()} == {n: s.shape for n, s in shapes.items()}
    assert all(metric.shape == () for metric in metrics.values())


def test_texture_measures_the_strength_of_grain_and_not_its_place():
    grain = np.random.default_rng(0).normal(size=(3, 1, 64, 64, 3))
    mean, plain = 0.3, np.zeros((1, 64, 64, 3))
    strong, other, weak = (
        np.asarray(texture(jnp.asarray(mean + scale * each, jnp.float32)))
        for scale, each in zip((0.2, 0.2, 0.1), grain, strict=True)
    )
    assert strong.shape == (1, 56, 56, 3)
    # A ninth of the variance is that of the local mean.
    np.testing.assert_allclose(strong.mean(), 0.2 * np.sqrt(8 / 9), rtol=0.03)
    np.testing.assert_allclose(strong.mean(), other.mean(), rtol=0.03)
    np.testing.assert_allclose(weak.mean(), strong.mean() / 2, rtol=0.03)
    assert np.asarray(texture(jnp.asarray(plain + mean, jnp.float32))).max() < 0.002


@pytest.mark.slow
def test_every_branch_learns():
    net = network("vae", SMALL)
    params = jax.jit(lambda key: as_trained(net.init(key)))(jax.random.key(0))
    random = np.random.default_rng(0)
    batch = {
        "pixels": random.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8),
        "bboxes": np.array([[[8, 8, 24, 24]]] * 2, np.float32),
    }
    learn = jax.jit(jax.grad(make_loss(net, make_perceptual_error(RECOGNIZER)), has_aux=True))
    gradients, metrics = learn(params, batch, jax.random.key(1))
    assert all(np.isfinite(v) for v in metrics.values())
    for name, gradient in gradients.items():
        moved = np.abs(gradient).max() > 0
        assert moved == (BRANCHES.match(name) is not None), name


@pytest.mark.slow
def test_diffusers_restores_pictures_from_what_is_written(tmp_path, capsys, monkeypatch):
    stage = Stage(steps=4, learning_rate=3e-3, warmup_steps=2, ema_decay=0.7)
    options = Options(
        workdir=tmp_path,
        latent_channels=16,
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
    # A prolonged run writes its result again.
    published = (tmp_path / file).read_bytes()
    longer = dataclasses.replace(options, stage=dataclasses.replace(stage, steps=6))
    train_autoencoder(SMALL, longer)
    assert (tmp_path / file).read_bytes() != published
    # A run resumes only with what it started from.
    with pytest.raises(InputError, match="data"):
        train_autoencoder(SMALL, dataclasses.replace(longer, start=from_first.start))
    with pytest.raises(InputError, match="other sizes"):
        train_autoencoder(SMALL, dataclasses.replace(from_first, latent_channels=24))
