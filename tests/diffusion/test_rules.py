import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.diffusion.names import BASES
from instantid_jax.diffusion.rules import StepRule
from instantid_jax.diffusion.sampler import SamplerBatch
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig

SHAPE = (2, 4, 4, 3)


def unit_noise(count):
    return np.random.default_rng(0).standard_normal((count, *SHAPE), np.float32)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_state_stays_float32_of_one_shape(name, dtype, strict_promotion):
    sampler = make_sampler(ScheduleConfig(), name, 4)
    sample, output, noise = (jnp.asarray(x) for x in unit_noise(3))
    state = sampler.rule.init(sample.astype(dtype))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert set(state) == {"sample", *sampler.rule.remembered}
    assert all(entry == (SHAPE, jnp.float32) for entry in shapes.values())
    for i in range(3):
        scaled = sampler.rule.scale_input(state, sampler.row(i))
        assert scaled.dtype == jnp.float32 and scaled.shape == SHAPE
        draw = noise if sampler.rule.stochastic else None
        state = jax.jit(sampler.rule.step)(state, output.astype(dtype), sampler.row(i), draw)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes


def test_rules_compare_by_value():
    assert StepRule() == StepRule() and hash(StepRule(2)) == hash(StepRule(2))
    assert len({StepRule(), StepRule(2), StepRule(3), StepRule(2, corrects=True)}) == 4


@pytest.mark.parametrize("name", BASES)
def test_rows_have_the_coefficients_of_their_rule(name):
    sampler = make_sampler(ScheduleConfig(), name, 4)
    assert sampler.rows.keys() == sampler.rule.neutral.keys()


def test_a_neutral_row_keeps_the_sample():
    rule = StepRule(3, corrects=True, stochastic=True)
    sample, output, noise = (jnp.asarray(x) for x in unit_noise(3))
    row = {name: np.full(2, value, np.float32) for name, value in rule.neutral.items()}
    state = rule.step(rule.init(sample), output, row, noise)
    np.testing.assert_array_equal(state["sample"], sample)


MIXED = {
    **{"euler": 5, "dpmpp_2m_karras": 7, "unipc": 4, "euler_ancestral": 6},
    **{"heun": 3, "pndm": 6, "deis": 4, "ddpm": 4, "tcd": 4, "dpmpp_sde": 3},
}


def run(sampler, starts, seeds):
    """Samples with a network of one known output; images begin at the steps `starts`."""
    rule = sampler.rule
    step = jax.jit(rule.step)
    initial = np.stack([np.random.default_rng(s).standard_normal((4, 4, 3)) for s in seeds])
    initial = jnp.asarray(initial, jnp.float32) * sampler.init_noise_sigma.reshape(-1, 1, 1, 1)
    state = rule.init(initial)
    steps = len(sampler) + max(starts)
    neutral = rule.neutral
    for i in range(steps):
        at = [i - start for start in starts]
        row = {
            name: np.array(
                [column[k, j] if 0 <= k < len(column) else neutral[name] for j, k in enumerate(at)],
                np.float32,
            )
            for name, column in sampler.rows.items()
        }
        shown = rule.scale_input(state, row)
        output = jnp.tanh(shown) * 0.9
        noise = np.stack(
            [
                np.random.default_rng((s, max(k, 0))).standard_normal((4, 4, 3))
                for s, k in zip(seeds, at, strict=True)
            ]
        ).astype(np.float32)
        state = step(state, output, row, noise if rule.stochastic else None)
    return np.asarray(state["sample"])


def test_samplers_begun_at_different_steps_share_one_program():
    """Each image is the one it is alone, with its own sampler's rule."""
    made = [make_sampler(ScheduleConfig(), name, steps) for name, steps in MIXED.items()]
    together = SamplerBatch.of(made)
    assert together.rule == StepRule(5, corrects=True, stochastic=True)
    starts = [0, 3, 1, 2, 1, 0, 2, 3, 1, 2]
    mixed = run(together, starts, seeds=range(len(made)))
    for i, sampler in enumerate(made):
        alone = run(SamplerBatch.of([sampler]), [0], seeds=[i])[0]
        error = np.linalg.norm(mixed[i] - alone) / np.linalg.norm(alone)
        assert error < 1e-6, (list(MIXED)[i], error)


@pytest.mark.parametrize("name", [n for n in BASES if n not in ("ddim", "lcm")])
def test_networks_are_shown_unit_variance(name):
    """Pure noise times `init_noise_sigma`, to within the signal that the first timestep has."""
    for spacing in ("leading", "trailing"):
        sampler = make_sampler(ScheduleConfig(timestep_spacing=spacing), name, 10)
        state = sampler.rule.init(jnp.asarray(unit_noise(1)[0]) * sampler.init_noise_sigma)
        shown = sampler.rule.scale_input(state, sampler.row(0))
        np.testing.assert_allclose(shown.std(), unit_noise(1)[0].std(), rtol=5e-3)


@pytest.mark.parametrize("name", BASES)
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
            draw = noise if sampler.rule.stochastic else None
            state = compiled(sampler.rule, state, timestep, sampler.row(i), draw)
    assert len(traces) == 1
