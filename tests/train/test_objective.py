"""The objective's options and random draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.errors import InputError
from train.objective import ObjectiveConfig, draw, losses

ALPHAS = jnp.linspace(0.999, 0.0, 1000)  # zero terminal SNR
SHAPE = (8, 8, 4)


def loss_at(config: ObjectiveConfig, timesteps: list[int], box=None) -> np.ndarray:
    rows = len(timesteps)
    random = np.random.default_rng(0)
    prediction, latents, noise = random.standard_normal((3, rows, *SHAPE)).astype(np.float32)
    box = None if box is None else jnp.tile(jnp.asarray(box, jnp.float32), (rows, 1))
    arrays = (jnp.asarray(x) for x in (prediction, latents, noise, np.array(timesteps)))
    return np.asarray(losses(config, ALPHAS, *arrays, box))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weights_match_the_paper(prediction_type):
    timesteps = [0, 500, 990]
    plain = loss_at(ObjectiveConfig(prediction_type=prediction_type), timesteps)
    weighed = loss_at(
        ObjectiveConfig(prediction_type=prediction_type, min_snr_gamma=5.0), timesteps
    )
    alpha = np.asarray(ALPHAS)[timesteps]
    snr = alpha / (1 - alpha)
    # Hang et al. 2023, section 3.4.
    expected = np.minimum(snr, 5) / (snr if prediction_type == "epsilon" else snr + 1)
    np.testing.assert_allclose(weighed / plain, expected, rtol=1e-5)


def test_min_snr_is_finite_at_zero_terminal_snr():
    assert np.isfinite(loss_at(ObjectiveConfig(min_snr_gamma=5.0), [999])).all()


def test_face_weight_keeps_the_mean_weight():
    everywhere = loss_at(ObjectiveConfig(face_weight=3.0), [10], box=[0, 0, 8, 8])
    np.testing.assert_allclose(everywhere, loss_at(ObjectiveConfig(), [10]), rtol=1e-6)
    inside = loss_at(ObjectiveConfig(face_weight=3.0), [10], box=[0, 0, 4, 8])
    assert abs(inside - everywhere) > 1e-3


def test_conditions_are_dropped_by_their_shares():
    config = ObjectiveConfig(drop_id=0.1, drop_text=0.2, drop_both=0.05)
    draws = jax.jit(lambda key: draw(config, key, jnp.arange(20_000), (1, 1, 4), ALPHAS))(
        jax.random.key(0)
    )
    both = np.asarray(draws.drop_id & draws.drop_text).mean()
    np.testing.assert_allclose(both, 0.05, atol=0.01)
    np.testing.assert_allclose(np.asarray(draws.drop_id).mean(), 0.15, atol=0.01)
    np.testing.assert_allclose(np.asarray(draws.drop_text).mean(), 0.25, atol=0.01)
    timesteps = np.asarray(draws.timesteps)
    assert timesteps.min() == 0 and timesteps.max() == 999


def test_log_noise_has_the_configured_distribution():
    alphas = jnp.cumprod(1 - jnp.linspace(0.03, 0.11, 1000) ** 2)
    config = ObjectiveConfig(log_noise=(-0.5, 0.7))
    draws = jax.jit(lambda key: draw(config, key, jnp.arange(20_000), (1, 1, 4), alphas))(
        jax.random.key(0)
    )
    alpha = np.asarray(alphas)[draws.timesteps]
    log_noise = np.log((1 - alpha) / alpha) / 2
    np.testing.assert_allclose([log_noise.mean(), log_noise.std()], [-0.5, 0.7], atol=0.02)


def test_draws_of_an_example_do_not_depend_on_other_examples():
    config, key = ObjectiveConfig(noise_offset=0.1, log_noise=(0.0, 1.0)), jax.random.key(3)
    together = draw(config, key, jnp.arange(6), SHAPE, ALPHAS)
    apart = draw(config, key, jnp.array([4]), SHAPE, ALPHAS)
    for whole, one in zip(together, apart, strict=True):
        np.testing.assert_array_equal(whole[4:5], one)


@pytest.mark.parametrize(
    "settings",
    [
        {"drop_id": 0.6, "drop_text": 0.5},
        {"drop_id": float("nan")},
        {"min_snr_gamma": 0.0},
        {"log_noise": (0.0, 0.0)},
        {"log_noise": (float("nan"), 1.0)},
        {"face_weight": -1.0},
        {"identity_weight": -0.5},
        {"identity_window": 0},
        {"noise_offset": -3.0},
        {"prediction_type": "sample"},
    ],
    ids=str,
)
def test_rejects_impossible_settings(settings):
    with pytest.raises(InputError):
        ObjectiveConfig(**settings)
