import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.diffusion.schedule import (
    ScheduleConfig,
    add_noise,
    alphas_cumprod,
    clean_estimate,
    timesteps_of_noise,
    velocity_target,
)
from instantid_jax.errors import InputError


def test_sdxl_schedule():
    alpha = alphas_cumprod(ScheduleConfig())
    assert alpha.shape == (1000,) and alpha.dtype == np.float32
    assert np.all(np.diff(alpha) < 0)
    np.testing.assert_allclose(alpha[0], 1 - 0.00085, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(1 / alpha[-1] - 1), 14.6146, rtol=1e-5)  # SDXL's sigma max


def test_zero_terminal_snr():
    usual = alphas_cumprod(ScheduleConfig())
    rescaled = alphas_cumprod(ScheduleConfig(rescale_betas_zero_snr=True))
    assert rescaled[-1] == 0 and usual[-1] > 0
    np.testing.assert_allclose(rescaled[0], usual[0], rtol=1e-6)


def test_from_dict_reads_keys_of_diffusers():
    config = ScheduleConfig.from_dict(
        {
            "_class_name": "UniPCMultistepScheduler",
            "_diffusers_version": "0.30.0",
            "beta_start": 0,
            "lower_order_final": None,
            "prediction_type": "v_prediction",
            "disable_corrector": [0, 2],
            "skip_prk_steps": True,
        }
    )
    assert config == ScheduleConfig(
        class_name="UniPCMultistepScheduler",
        beta_start=0.0,
        lower_order_final=False,
        prediction_type="v_prediction",
        disable_corrector=(0, 2),
    )
    assert isinstance(config.beta_start, float)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_train_timesteps": "1000"},
        {"num_train_timesteps": 1000.5},
        {"num_train_timesteps": float("inf")},
        {"num_train_timesteps": True},
        {"beta_end": None},
        {"beta_schedule": 3},
        {"use_karras_sigmas": "yes"},
        {"trained_betas": ["a"]},
        {"sigma_max": "10"},
    ],
)
def test_values_of_a_wrong_type(settings):
    (key,) = settings
    with pytest.raises(InputError, match=key) as raised:
        ScheduleConfig.from_dict(settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "settings, names",
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid'"),
        ({"trained_betas": (0.1, 0.2)}, "2 trained_betas"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
    ],
)
def test_schedules_that_cannot_be(settings, names):
    with pytest.raises(InputError, match=names):
        alphas_cumprod(ScheduleConfig(**settings))


def batch():
    sample, noise = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 2), np.float32)
    return jnp.asarray(sample), jnp.asarray(noise), jnp.asarray([0, 500, 999])


def test_forward_process(strict_promotion):
    """Signal and velocity are a rotation of sample and noise, and rotate back."""
    sample, noise, timestep = batch()
    alpha = jnp.asarray(alphas_cumprod(ScheduleConfig(rescale_betas_zero_snr=True)))
    noisy = jax.jit(add_noise)(alpha, sample, noise, timestep)
    velocity = jax.jit(velocity_target)(alpha, sample, noise, timestep)
    assert noisy.dtype == velocity.dtype == jnp.float32
    a = jnp.sqrt(alpha[timestep])[:, None, None, None]
    s = jnp.sqrt(1 - alpha[timestep])[:, None, None, None]
    np.testing.assert_allclose(a * noisy - s * velocity, sample, atol=1e-5)
    np.testing.assert_allclose(s * noisy + a * velocity, noise, atol=1e-5)
    np.testing.assert_allclose(noisy[0], sample[0], atol=0.15)  # hardly any noise at first
    np.testing.assert_array_equal(noisy[2], noise[2])  # nothing else at the end, at zero SNR
    np.testing.assert_array_equal(velocity[2], -sample[2])


def test_a_right_prediction_gives_the_clean_latents():
    sample, noise, timestep = batch()
    alpha = jnp.asarray(alphas_cumprod(ScheduleConfig()))
    noisy = add_noise(alpha, sample, noise, timestep)
    velocity = velocity_target(alpha, sample, noise, timestep)
    for prediction, is_velocity in ((noise, False), (velocity, True)):
        clean = clean_estimate(alpha, noisy, prediction, timestep, velocity=is_velocity)
        np.testing.assert_allclose(clean, sample, atol=1e-4)
        other = clean_estimate(alpha, noisy, prediction + 0.1, timestep, velocity=is_velocity)
        assert np.abs(other - sample).max() > 0.05


@pytest.mark.parametrize("velocity", [False, True])
def test_without_any_signal_the_estimate_is_finite(velocity):
    sample, noise, timestep = batch()
    alpha = jnp.asarray(alphas_cumprod(ScheduleConfig(rescale_betas_zero_snr=True)))
    noisy = add_noise(alpha, sample, noise, timestep)
    clean = clean_estimate(alpha, noisy, 0.9 * noise, timestep, velocity=velocity)
    assert alpha[timestep[2]] == 0 and np.isfinite(clean).all()


@pytest.mark.parametrize("function", [add_noise, velocity_target])
def test_timesteps_are_one_integer_a_sample(function):
    sample, noise, timestep = batch()
    alpha = jnp.asarray(alphas_cumprod(ScheduleConfig()))
    for wrong in (timestep.astype(jnp.float32), timestep[:2], timestep[0]):
        with pytest.raises(ValueError, match="timestep must be integers"):
            function(alpha, sample, noise, wrong)


def test_timesteps_of_noise_are_the_first_that_are_so_noisy():
    alphas = np.array([0.9, 0.5, 0.1, 0.0], np.float32)
    log_ratios = jnp.array([-9.0, -1.2, -1.0, 0.0, 0.1, 1.0, 1.2, 99.0])
    np.testing.assert_array_equal(timesteps_of_noise(alphas, log_ratios), [0, 0, 1, 1, 2, 2, 3, 3])
