"""`start_at` and `end_at` against ComfyUI's rule, computed from noise levels."""

import numpy as np
import pytest

from comfyui.windows import Window, window_of
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.pipeline.conditions.control import inside_window

CONFIG = ScheduleConfig()
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
LOG_SIGMAS = np.log((1 / np.cumprod(1 - BETAS) - 1) ** 0.5)
SAMPLERS = ("euler", "euler_trailing", "euler_karras", "ddim", "dpmpp_2m", "dpmpp_2m_karras")


def counts(start_at: float, end_at: float, sigmas: np.ndarray) -> np.ndarray:
    """ComfyUI's rule: a step counts while its sigma lies between those of two percentages."""

    def sigma(percent):
        if percent <= 0:
            return np.inf
        return (
            0 if percent >= 1 else np.exp(np.interp((1 - percent) * 999, range(1000), LOG_SIGMAS))
        )

    return (sigmas <= sigma(start_at)) & (sigmas >= sigma(end_at))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 4, 30, 37])
def test_the_steps_are_those_that_comfyui_takes(name, steps):
    sampler = make_sampler(CONFIG, name, steps)
    sigmas = (sampler.levels.noise / sampler.levels.signal)[:-1]
    rng = np.random.default_rng(steps)
    pairs = [(0.0, 1.0), (0.0, 0.5), (0.5, 1.0), *np.sort(rng.random((50, 2)))]
    for start_at, end_at in pairs:
        # Solvers round their timesteps, as in diffusers.
        bounds = 999 * (1 - np.array([start_at, end_at]))
        if 0 < np.abs(sampler.timesteps[:, None] - bounds).min() <= 0.5:
            continue
        window = window_of(start_at, end_at, sampler.timesteps, sampler.left_out)
        expected = counts(start_at, end_at, sigmas)
        assert window.is_empty == (not expected.any())
        if not window.is_empty:
            inside = inside_window(steps, np.array([window.start]), np.array([window.end]))
            np.testing.assert_array_equal(inside[:, 0], expected)


def test_karras_sigmas_have_other_steps_in_a_window_than_even_ones():
    even, karras = (
        window_of(0.0, 0.5, make_sampler(CONFIG, name, 30).timesteps, 0)
        for name in ("euler_trailing", "euler_karras")
    )
    assert even == Window(0, 15, 30) and karras.last < even.last


def test_steps_of_the_refiner_count_with_the_last_one_before_them():
    timesteps = np.array([999.0, 799.0, 599.0, 399.0])
    assert window_of(0.0, 1.0, timesteps, 1) == (0, 5, 5)
    assert window_of(0.5, 0.9, timesteps, 1) == (3, 5, 5)
    assert window_of(0.0, 0.5, timesteps, 1) == (0, 3, 5)
