import numpy as np
import pytest

from instantid_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
from instantid_jax.diffusion.spacing import (
    Steps,
    respaced_sigmas,
    spaced_timesteps,
    timesteps_of,
    train_sigmas,
)
from instantid_jax.errors import InputError


@pytest.mark.parametrize(
    "spacing, skip_last, expected",
    [
        ("leading", False, [751, 501, 251, 1]),
        ("linspace", False, [999, 666, 333, 0]),
        ("trailing", False, [999, 749, 499, 249]),
        ("leading", True, [801, 601, 401, 201]),
        ("linspace", True, [999, 749.25, 499.5, 249.75]),
        ("trailing", True, [999, 749, 499, 249]),
    ],
)
def test_four_steps_of_a_thousand(spacing, skip_last, expected):
    config = ScheduleConfig(timestep_spacing=spacing)
    np.testing.assert_allclose(spaced_timesteps(config, Steps(4), skip_last=skip_last), expected)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_every_count_has_so_many_descending_timesteps(spacing):
    config = ScheduleConfig(timestep_spacing=spacing)
    for steps in range(1, 1001):
        timesteps = spaced_timesteps(config, Steps(steps))
        assert len(timesteps) == steps and np.all(np.diff(timesteps) < 0)
        assert timesteps[-1] >= 0 and timesteps[0] <= 1000


def test_no_room():
    with pytest.raises(InputError, match="num_inference_steps=600 does not fit 300"):
        spaced_timesteps(ScheduleConfig(), Steps(600), last=300)
    with pytest.raises(InputError, match="lambda_min_clipped"):
        spaced_timesteps(ScheduleConfig(), Steps(1), last=0)


def test_sigmas_of_zero_snr_end_at_4096():
    config = ScheduleConfig(rescale_betas_zero_snr=True)
    alpha = alphas_cumprod(config)
    sigmas = train_sigmas(config, alpha)
    np.testing.assert_allclose(sigmas[-1], 4096, rtol=1e-6)
    assert alpha[-1] == 0, "the schedule itself stays as it was"


def test_karras_and_lu():
    sigmas = np.array([10.0, 1.0, 0.1])
    config = ScheduleConfig(use_karras_sigmas=True)
    karras = respaced_sigmas(config, 5, sigmas, use_lu_lambdas=True)
    np.testing.assert_allclose(np.diff(karras ** (1 / 7), n=2), 0, atol=1e-12)
    np.testing.assert_allclose(karras[[0, -1]], [10, 0.1])

    config = ScheduleConfig(use_lu_lambdas=True)
    lu = respaced_sigmas(config, 5, sigmas, use_lu_lambdas=True)
    np.testing.assert_allclose(np.diff(np.log(lu), n=2), 0, atol=1e-12)
    np.testing.assert_allclose(lu[[0, -1]], [10, 0.1])
    assert respaced_sigmas(config, 5, sigmas, use_lu_lambdas=False) is None

    config = ScheduleConfig(use_karras_sigmas=True, sigma_max=0.01)
    with pytest.raises(InputError, match="sigma_max"):
        respaced_sigmas(config, 5, sigmas, use_lu_lambdas=False)


def test_timesteps_of_trained_sigmas():
    config = ScheduleConfig()
    trained = train_sigmas(config, alphas_cumprod(config))
    wanted = np.array([0, 1, 437, 998, 999])
    np.testing.assert_allclose(
        timesteps_of(trained[wanted].astype(float), trained), wanted, atol=1e-3
    )
    between = np.sqrt(trained[10] * trained[11]).astype(float)
    np.testing.assert_allclose(timesteps_of(np.array([between]), trained), [10.5], atol=1e-3)
    outside = np.array([1e-3, 1e3])
    np.testing.assert_array_equal(timesteps_of(outside, trained), [0, 999])
