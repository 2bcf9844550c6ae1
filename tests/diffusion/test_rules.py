import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.diffusion.rules import Multistep, OneStep, PredictorCorrector
from instantid_jax.diffusion.samplers import SAMPLERS, make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig

SHAPE = (2, 4, 4, 3)


def unit_noise(count):
    return np.random.default_rng(0).standard_normal((count, *SHAPE), np.float32)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_state_stays_float32_of_one_shape(name, dtype, strict_promotion):
    sampler = make_sampler(ScheduleConfig(), name, 4)
    sample, output, noise = (jnp.asarray(x) for x in unit_noise(3))
    state = sampler.rule.init(sample.astype(dtype))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert set(state) == {"sample", *sampler.rule.memory()}
    assert all(entry == (SHAPE, jnp.float32) for entry in shapes.values())
    for i in range(3):
        scaled = sampler.rule.scale_input(state, sampler.row(i))
        assert scaled.dtype == jnp.float32 and scaled.shape == SHAPE
        draw = noise if sampler.stochastic else None
        state = jax.jit(sampler.rule.step)(state, output.astype(dtype), sampler.row(i), draw)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes


def test_rules_compare_by_value():
    assert OneStep() == OneStep() and hash(Multistep(2)) == hash(Multistep(2))
    assert len({OneStep(), Multistep(2), Multistep(3), PredictorCorrector(2)}) == 4


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_is_given_where_it_is_drawn(name):
    sampler = make_sampler(ScheduleConfig(), name, 4)
    sample, output, noise = unit_noise(3)
    state = sampler.rule.init(jnp.asarray(sample))
    wrong = None if sampler.stochastic else noise
    with pytest.raises(ValueError, match="noise"):
        sampler.rule.step(state, output, sampler.row(0), wrong)


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n not in ("ddim", "lcm")])
def test_networks_are_shown_unit_variance(name):
    """Pure noise times `init_noise_sigma`, to within the signal that the first timestep has."""
    for spacing in ("leading", "trailing"):
        sampler = make_sampler(ScheduleConfig(timestep_spacing=spacing), name, 10)
        state = sampler.rule.init(jnp.asarray(unit_noise(1)[0]) * sampler.init_noise_sigma)
        shown = sampler.rule.scale_input(state, sampler.row(0))
        np.testing.assert_allclose(shown.std(), unit_noise(1)[0].std(), rtol=5e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_number_of_steps_compiles_nothing_new(name):
    traces = []

    def one_step(rule, state, timestep, row, noise):
        traces.append(None)
        output = 0.5 * rule.scale_input(state, row) + timestep / 1000
        return rule.step(state, output, row, noise)

    compiled = jax.jit(one_step, static_argnums=0)
    initial, noise = jnp.asarray(unit_noise(1)[0]), unit_noise(1)[0]
    for steps in (1, 2, 7, 14, 15, 30):
        sampler = make_sampler(ScheduleConfig(), name, steps)
        state = sampler.rule.init(initial)
        for i, timestep in enumerate(sampler.timesteps):
            draw = noise if sampler.stochastic else None
            state = compiled(sampler.rule, state, timestep, sampler.row(i), draw)
    assert len(traces) == 1
