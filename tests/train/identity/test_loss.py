"""The identity loss matches insightface, and its gradients lead to the person."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.embedded import FACE_PACK, SDXL
from instantid_jax.face.analysis import aligned_crop
from instantid_jax.weights.layouts import find_network
from miniature.portraits import draw_random
from tests.train import small
from train.identity.loss import LEAST_INSIDE, aligned_faces, identity_losses, share_inside
from train.identity.onnx_network import read_recognizer

PEOPLE = 3


@pytest.fixture(scope="module")
def portraits():
    drawn = [draw_random(seed) for seed in range(PEOPLE)]
    pixels = np.stack([np.asarray(each.image) for each in drawn])
    return pixels, np.stack([each.kps for each in drawn]).astype(np.float32)


@pytest.fixture(scope="module")
def networks():
    """The tests' networks with the miniature's VAE and recognizer, and the parameters of these."""
    vae = find_network(str(SDXL / "vae"), "vae")
    recognizer, load = read_recognizer(FACE_PACK / "recogniser.onnx")
    float32 = jnp.dtype("float32")
    both = dataclasses.replace(small.networks(), vae=vae.network, recognizer=recognizer)
    return both, {"vae": vae.load(float32), "recognizer": load(float32)}


@pytest.fixture(scope="module")
def encoded(networks, portraits):
    """Latents, keypoints, and the embeddings of insightface's crops of the portraits."""
    both, frozen = networks
    pixels, kps = portraits
    crops = np.stack([aligned_crop(p, k, 112) for p, k in zip(pixels, kps, strict=True)])

    @jax.jit
    def run(frozen, pixels, crops):
        latents = both.vae.bind(frozen["vae"]).encode(pixels / 127.5 - 1)
        return latents, both.recognizer.bind(frozen["recognizer"])(crops / 127.5 - 1)

    latents, embeddings = run(frozen, pixels.astype(np.float32), crops.astype(np.float32))
    return latents, jnp.asarray(kps), embeddings


@pytest.fixture(scope="module")
def losses(networks):
    both, frozen = networks

    @functools.partial(jax.jit, static_argnames="window")
    def run(latents, kps, wanted, window=None):
        return identity_losses(both, frozen, latents, kps, wanted, window)

    return run


def test_crops_match_insightface(portraits):
    pixels, kps = portraits
    # Includes a face that is rotated, large and half outside the image.
    turned = kps[:1] @ np.array([[0.8, 0.9], [-0.9, 0.8]], np.float32) + np.array([90, -40])
    pixels = np.concatenate([pixels, pixels[:1]])
    kps = np.concatenate([kps, turned.astype(np.float32)])
    for side in (112, 224):
        wanted = [aligned_crop(p, k, side) for p, k in zip(pixels, kps, strict=True)]
        got = aligned_faces(jnp.asarray(pixels / 127.5 - 1, jnp.float32), jnp.asarray(kps), side)
        difference = np.abs((np.asarray(got) + 1) * 127.5 - np.stack(wanted))
        # OpenCV rounds positions to 1/32 pixel, and values to integers.
        assert difference.mean() < 0.6 and np.quantile(difference, 0.999) < 6
    assert (np.stack(wanted)[-1] == 0).any()


def test_loss_is_low_for_the_person_and_high_for_others(encoded, losses):
    latents, kps, embeddings = encoded
    own = losses(latents, kps, embeddings)
    other = losses(latents, kps, jnp.roll(embeddings, 1, axis=0))
    assert own.max() < 0.25 and other.min() > 0.6


def test_dropped_id_has_no_loss_and_no_gradient(encoded, losses):
    latents, kps, embeddings = encoded
    wanted = embeddings.at[1].set(0)
    each, gradient = jax.value_and_grad(lambda x: losses(x, kps, wanted).sum())(latents)
    assert each > 0
    assert losses(latents, kps, wanted)[1] == 0
    assert np.isfinite(gradient).all() and not gradient[1].any() and gradient[0].any()


def test_window_gives_the_same_loss(encoded, losses):
    latents, kps, embeddings = encoded
    whole = losses(latents, kps, embeddings)
    np.testing.assert_allclose(losses(latents, kps, embeddings, window=16), whole, rtol=1e-5)
    np.testing.assert_allclose(losses(latents, kps, embeddings, window=99), whole, rtol=1e-5)
    near = losses(latents, kps, embeddings, window=12)
    assert np.abs(near - whole).max() < 0.05 and (near != whole).all()


def test_truncated_face_has_no_loss(encoded, losses):
    latents, kps, embeddings = encoded
    assert not losses(latents, kps, embeddings, window=5).any()
    moved = kps + jnp.array([[[60, 0]], [[0, 0]], [[0, -60]]], jnp.float32)
    seen = losses(latents, moved, embeddings)
    assert seen[0] == seen[2] == 0 and seen[1] > 0


def test_share_inside_matches_insightfaces_crop(portraits):
    _, kps = portraits
    kps = np.concatenate([kps, 2 * kps, kps - 40]).astype(np.float32)
    white = np.full((128, 128, 3), 255, np.uint8)
    wanted = [(aligned_crop(white, each, 112) > 127).mean() for each in kps]
    got = share_inside(jnp.asarray(kps), (128, 128))
    np.testing.assert_allclose(got, wanted, atol=0.02)
    assert min(wanted) < LEAST_INSIDE < max(wanted)


@pytest.mark.slow
def test_gradient_descent_changes_the_identity(encoded, losses):
    latents, kps, embeddings = encoded
    wanted = jnp.roll(embeddings, 1, axis=0)
    gradient = jax.jit(jax.grad(lambda x: losses(x, kps, wanted, window=12).sum()))
    moved = latents
    for _ in range(8):
        slope = gradient(moved)
        moved -= 2 * slope / jnp.sqrt((slope**2).sum((1, 2, 3), keepdims=True))
    assert (losses(moved, kps, wanted) < 0.7 * losses(latents, kps, wanted)).all()
