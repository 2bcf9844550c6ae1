"""Batches and loss of text encoders and UNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.components import network
from instantid_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
from instantid_jax.pipeline.conditions.canvas import resolve_time_ids
from instantid_jax.request import Request
from miniature.base import denoising
from miniature.base.architecture import SCHEDULER, TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE
from miniature.base.latents import Latents

MEAN = [1, 2, 3, 4, 5, 6, 7, 8]
SMALL = {"block_out_channels": [16, 16, 32], "attention_head_dim": [1, 1, 2], "norm_num_groups": 4}


@pytest.fixture(scope="module")
def networks():
    words = {"vocab_size": 50, "eos_token_id": 49}
    return {
        "unet": network("unet", UNET | SMALL | {"in_channels": 8, "out_channels": 8}),
        "text_encoder": network("text_encoder", TEXT_ENCODER | words),
        "text_encoder_2": network("text_encoder_2", TEXT_ENCODER_2 | words),
        "vae": network(
            "vae", VAE | {"latent_channels": 8, "latents_mean": MEAN, "latents_std": [2] * 8}
        ),
    }


@pytest.fixture(scope="module")
def params(networks):
    return jax.jit(lambda key: denoising.init(networks, key))(jax.random.key(0))


def batch(size):
    random = np.random.default_rng(0)
    moments = random.normal(size=(size, 8, 8, 16)).astype(np.float16)
    ids = random.integers(0, 49, (size, 12))
    ids[:, -2:] = 49  # the end of the text
    # The faces are in the upper left quarters.
    boxes = np.tile(np.array([0, 0, 32, 32], np.float32), (size, 1))
    return {"moments": moments, "face_box": boxes, "input_ids": ids}


def alphas():
    return alphas_cumprod(ScheduleConfig.from_dict(SCHEDULER))


@pytest.mark.slow
def test_initial_loss_is_the_target_variance(networks, params):
    # At every timestep the velocity has the variance of noise and latents: about one if latents are
    # scaled. These latents have a mean of 1 to 8; unscaled, the loss would differ.
    moments = np.zeros((64, 8, 8, 16), np.float16)
    moments[..., :8] = np.random.default_rng(1).normal(MEAN, 2, (64, 8, 8, 8))
    moments[..., 8:] = -20
    loss, _ = jax.jit(denoising.make_loss(networks, alphas()))(
        params, batch(64) | {"moments": moments}, jax.random.key(1)
    )
    np.testing.assert_allclose(loss, 1, atol=0.05)


@pytest.mark.slow
def test_face_weight_increases_the_faces_share_of_the_loss(networks, params):
    faces, around = batch(8), batch(8)
    faces["moments"][:, :4, :4, :8] += 20
    around["moments"][:, 4:, :, :8] += 20
    plain, weighted = (
        [
            float(jax.jit(denoising.make_loss(networks, alphas(), weight))(
                params, each, jax.random.key(1)
            )[0])
            for each in (faces, around)
        ]
        for weight in (0.0, 3.0)
    )  # fmt: skip
    assert weighted[0] > 1.5 * plain[0] and weighted[1] < 0.7 * plain[1]


def test_distribution_of_timesteps():
    cumprod = alphas()
    drawn = jax.vmap(lambda key: denoising.draw_timesteps(key, cumprod, 32))(
        jax.random.split(jax.random.key(0), 500)
    )
    alike = np.arange(32) % 8 == 0
    shares = np.histogram(drawn[:, alike], 5, (0, 1000))[0] / drawn[:, alike].size
    np.testing.assert_allclose(shares, 0.2, atol=0.03)
    leveled = np.asarray(drawn[:, ~alike])
    level = np.log((1 - cumprod[leveled]) / cumprod[leveled]) / 2
    mean, deviation = denoising.LOG_NOISE
    assert abs(level.mean() - mean) < 0.02 and abs(level.std() - deviation) < 0.02
    # Stratified: the means of independent samples would have a deviation of 0.19.
    assert level.mean(axis=1).std() < 0.1


def test_gradients_have_the_parameters_shapes(networks):
    shapes = jax.eval_shape(lambda key: denoising.init(networks, key), jax.random.key(0))
    learn = jax.grad(denoising.make_loss(networks, alphas()), has_aux=True)
    gradients, metrics = jax.eval_shape(learn, shapes, batch(4), jax.random.key(1))
    assert {n: g.shape for n, g in gradients.items()} == {n: s.shape for n, s in shapes.items()}
    assert all(metric.shape == () for metric in metrics.values())


@pytest.mark.slow
def test_every_parameter_in_use_has_a_gradient(networks, params):
    filled = params | {
        name: jnp.ones_like(params[name]) / 8
        for name in ("unet.conv_out.kernel", "unet.conv_out.bias")
    }
    gradients, _ = jax.jit(jax.grad(denoising.make_loss(networks, alphas()), has_aux=True))(
        filled, batch(4), jax.random.key(1)
    )
    still = {name for name, g in gradients.items() if not np.abs(g).max() > 0}
    # The hidden states come from the penultimate layer, and the first encoder's pooled output is
    # not used.
    last = ("text_encoder.text_model.encoder.layers.1", "text_encoder.text_model.final_layer_norm")
    assert still == {name for name in params if name.startswith(last)}
    assert not any("_ip." in name for name in params)


def test_drops_a_tenth_of_the_captions():
    class Letters:
        def __call__(self, texts):
            return np.array([[len(text)] for text in texts])

    boxes = np.arange(80.0).reshape(20, 4)
    moments = np.broadcast_to(np.arange(20.0)[:, None, None, None], (20, 2, 2, 1))
    latents = Latents(moments, np.array([f"{i:02}" for i in range(20)]), boxes)
    batch_at = denoising.make_batches([latents], Letters(), 1000, seed=3)
    batch = batch_at(0)
    ids = batch["input_ids"]
    np.testing.assert_array_equal(
        batch["face_box"], boxes[batch["moments"][:, 0, 0, 0].astype(int)]
    )
    assert set(ids[:, 0]) == {0, 2} and 60 < (ids == 0).sum() < 140
    np.testing.assert_array_equal(ids, batch_at(0)["input_ids"])
    assert (ids != batch_at(1)["input_ids"]).any()


def test_batches_have_one_format_and_as_many_pixels():
    def latents(count, height, width):
        return Latents(
            np.zeros((count, height, width, 1)), np.array(["a"] * count), np.zeros((count, 4))
        )

    class Letters:
        def __call__(self, texts):
            return np.zeros((len(texts), 1), int)

    batch_at = denoising.make_batches([latents(30, 4, 4), latents(10, 4, 8)], Letters(), 8, seed=0)
    shapes = [batch_at(step)["moments"].shape for step in range(200)]
    assert set(shapes) == {(8, 4, 4, 1), (4, 4, 8, 1)}
    assert 120 < shapes.count((8, 4, 4, 1)) < 180


@pytest.mark.parametrize("size", [(128, 128), (96, 192)])
def test_time_ids_match_the_pipeline(size):
    expected = resolve_time_ids([Request("")], size, guidance=False)
    height, width = size
    np.testing.assert_array_equal(
        np.reshape(denoising.time_ids((2, height // 8, width // 8, 4), 8), (2, 6)),
        np.tile(np.reshape(expected, (1, 6)), (2, 1)),
    )


@pytest.mark.slow
def test_channel_weights_split_the_loss(networks, params):
    def loss(weights):
        made = jax.jit(denoising.make_loss(networks, alphas(), channel_weights=weights))
        return float(made(params, batch(8), jax.random.key(1))[0])

    even = np.tile([2.0, 0.0], 4)
    assert loss(even) != pytest.approx(loss(2 - even), rel=1e-3)
    assert loss(even) + loss(2 - even) == pytest.approx(2 * loss(1.0), rel=1e-5)
