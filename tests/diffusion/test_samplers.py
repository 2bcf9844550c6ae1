import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instantid_jax.diffusion.names import BASES, SAMPLERS
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
from instantid_jax.errors import InputError

SHAPE = (1, 4, 4, 3)
DETERMINISTIC = ("euler", "heun", "ddim", "pndm", "dpmpp_2m", "dpmpp_3m", "deis", "unipc", "tcd")
# These end above sigma 0.
UNFINISHED = ("deis", "tcd")


def share_of_signal(config, sampler, i):
    """sqrt(ᾱ) of step i, out of its row where that holds it."""
    row = sampler.row(i)
    if row["input_scale"] != 1:
        return row["input_scale"]
    if row.get("convert_sample"):
        p = row["convert_sample"]
        return p if config.prediction_type == "v_prediction" else 1 / p
    return np.sqrt(alphas_cumprod(config)[int(sampler.timesteps[i])])


SUFFIXES = {
    "_trailing": {"timestep_spacing": "trailing"},
    "_linspace": {"timestep_spacing": "linspace"},
    "_karras": {"use_karras_sigmas": True},
}


RECOVERED = [
    (name, prediction_type)
    for name in BASES
    for prediction_type in ("epsilon", "v_prediction")
    # PLMS mixes velocities of different times, as in diffusers.
    if name not in UNFINISHED and (name, prediction_type) != ("pndm", "v_prediction")
]


@pytest.mark.parametrize(("name", "prediction_type"), RECOVERED)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_a_known_image_is_recovered(name, steps, prediction_type):
    """With the true prediction for one image, every sampler ends at it, from any start."""
    config = ScheduleConfig(prediction_type=prediction_type, set_alpha_to_one=True)
    sampler = make_sampler(config, name, steps)
    draws = np.random.default_rng(0).standard_normal((2 + len(sampler), *SHAPE), np.float32)
    start, image, *noise = draws
    step = jax.jit(sampler.rule.step)
    state = sampler.rule.init(jnp.asarray(start) * sampler.init_noise_sigma)
    for i in range(len(sampler)):
        row, a = sampler.row(i), share_of_signal(config, sampler, i)
        shown = np.asarray(sampler.rule.scale_input(state, row))
        epsilon = (shown - a * image) / np.sqrt(1 - a**2)
        velocity = a * epsilon - np.sqrt(1 - a**2) * image
        output = epsilon if prediction_type == "epsilon" else velocity
        state = step(state, output, row, noise[i] if sampler.rule.stochastic else None)
    # The last sample is x_0 itself, and a float32 sum of numbers up to `init_noise_sigma` times it.
    np.testing.assert_allclose(state["sample"], image, atol=3e-5)


def test_ddim_without_alpha_one_ends_at_timestep_zero():
    """SDXL's own setting leaves the noise of the first training timestep in."""
    image, epsilon = np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)
    config = ScheduleConfig()
    alpha = alphas_cumprod(config)
    sampler = make_sampler(config, "ddim", 1)
    (t,) = sampler.timesteps.astype(int)
    start = np.sqrt(alpha[t]) * image + np.sqrt(1 - alpha[t]) * epsilon
    end = sampler.rule.step(sampler.rule.init(jnp.asarray(start)), epsilon, sampler.row(0), None)
    expected = np.sqrt(alpha[0]) * image + np.sqrt(1 - alpha[0]) * epsilon
    np.testing.assert_allclose(end["sample"], expected, atol=1e-5)
    assert np.abs(expected - image).max() > 1e-2


@pytest.mark.parametrize("name", BASES)
def test_rows(name):
    sampler = make_sampler(ScheduleConfig(), name, 7)
    assert sampler.timesteps.dtype == np.float32
    assert len(sampler) == {"heun": 13, "dpmpp_sde": 13, "pndm": 8}.get(name, 7)
    assert sampler.rule.stochastic == (name not in DETERMINISTIC)
    assert all(column.shape == (len(sampler),) for column in sampler.rows.values())
    row = sampler.row(3)
    assert all(v.shape == (1,) and v.dtype == np.float32 for v in row.values())
    assert sampler.row(0).keys() == row.keys()
    if sampler.rule.stochastic:
        assert np.all(sampler.rows["noise"][:-1] > 0) and sampler.rows["noise"][-1] == 0


def test_ddim_with_eta_takes_noise():
    assert make_sampler(ScheduleConfig(), "ddim", 5, eta=0.5).rule.stochastic
    assert not make_sampler(ScheduleConfig(), "ddim", 5, eta=0.0).rule.stochastic


def test_names_with_a_suffix_override_the_checkpoints_setting():
    for name in SAMPLERS:
        for suffix, settings in SUFFIXES.items():
            if name.endswith(suffix):
                own = make_sampler(ScheduleConfig(**settings), name.removesuffix(suffix), 6)
                found = make_sampler(ScheduleConfig(), name, 6)
                np.testing.assert_array_equal(own.timesteps, found.timesteps)
                for column in own.rows:
                    np.testing.assert_array_equal(own.rows[column], found.rows[column])
    assert {"ddim_trailing", "euler_ancestral_trailing", "heun_karras"} <= set(SAMPLERS)
    assert not {"lcm_trailing", "tcd_trailing", "ddim_karras", "euler_ancestral_karras"} & set(
        SAMPLERS
    )


def test_few_steps_take_the_published_timesteps():
    """Golden values of diffusers' schedulers for SDXL's schedule."""
    for name in ("euler_trailing", "ddim_trailing", "euler_ancestral_trailing"):
        found = [make_sampler(ScheduleConfig(), name, n).timesteps.tolist() for n in (1, 2, 4, 8)]
        assert found[:3] == [[999], [999, 499], [999, 749, 499, 249]]
        assert found[3] == [999, 874, 749, 624, 499, 374, 249, 124]
    euler = make_sampler(ScheduleConfig(), "euler_trailing", 4)
    np.testing.assert_allclose(euler.init_noise_sigma, 14.6146, atol=5e-5)
    for name in ("lcm", "tcd"):
        found = [make_sampler(ScheduleConfig(), name, n).timesteps.tolist() for n in (1, 4, 8)]
        assert found[:2] == [[999], [999, 759, 499, 259]]
        assert found[2] == [999, 879, 759, 639, 499, 379, 259, 139]


def test_none_is_the_checkpoints_own():
    for name, (class_name, settings) in BASES.items():
        if settings:
            continue
        own = make_sampler(ScheduleConfig.from_dict({"_class_name": class_name}), None, 6)
        named = make_sampler(ScheduleConfig(), name, 6)
        assert own.rule == named.rule and own.rows.keys() == named.rows.keys()
        for column in own.rows:
            np.testing.assert_array_equal(own.rows[column], named.rows[column])


DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
REFUSED = [
    ({"_class_name": "KDPM2DiscreteScheduler"}, "KDPM2DiscreteScheduler"),
    ({"_class_name": "PNDMScheduler", "skip_prk_steps": False}, "skip_prk_steps=False"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
    (
        {"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "sample"},
        "prediction_type='sample'",
    ),
    ({"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction'"),
    ({"timestep_spacing": "log"}, "timestep_spacing='log'"),
    ({"timestep_type": "continuous"}, "timestep_type='continuous'"),
    ({"interpolation_type": "log_linear"}, "interpolation_type='log_linear'"),
    ({"use_exponential_sigmas": True}, "use_exponential_sigmas=True"),
    ({"use_beta_sigmas": True}, "use_beta_sigmas=True"),
    ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid'"),
    ({"final_sigmas_type": "one"}, "final_sigmas_type='one'"),
    ({"use_karras_sigmas": True, "sigma_min": 20.0}, "sigma_min=20.0"),
    ({"_class_name": "DDIMScheduler", "clip_sample": True}, "clip_sample=True"),
    ({"_class_name": "LCMScheduler", "clip_sample": True}, "clip_sample=True"),
    ({"_class_name": "LCMScheduler", "original_inference_steps": 0}, "original_inference_steps=0"),
    ({"_class_name": "DDIMScheduler", "thresholding": True}, "thresholding=True"),
    ({"_class_name": DPM, "thresholding": True}, "thresholding=True"),
    ({"_class_name": DPM, "use_flow_sigmas": True}, "use_flow_sigmas=True"),
    ({"_class_name": DPM, "variance_type": "learned_range"}, "variance_type='learned_range'"),
    ({"_class_name": DPM, "algorithm_type": "dpmsolver"}, "algorithm_type='dpmsolver'"),
    ({"_class_name": DPM, "solver_type": "euler"}, "solver_type='euler'"),
    ({"_class_name": DPM, "solver_order": 4}, "solver_order=4"),
    (
        {"_class_name": DPM, "solver_order": 3, "algorithm_type": "sde-dpmsolver++"},
        "sde-dpmsolver.. with solver_order=3",
    ),
    (
        {"_class_name": DPM, "use_lu_lambdas": True, "beta_schedule": "squaredcos_cap_v2"},
        "squaredcos_cap_v2",
    ),
    ({"_class_name": DPM, "lambda_min_clipped": 9.0}, "lambda_min_clipped=9.0"),
    ({"_class_name": UNIPC, "predict_x0": False}, "predict_x0=False"),
    ({"_class_name": UNIPC, "solver_p": {"_class_name": "x"}}, "solver_p="),
    ({"_class_name": UNIPC, "shift_terminal": 0.1}, "shift_terminal=0.1"),
    ({"_class_name": UNIPC, "use_dynamic_shifting": True}, "use_dynamic_shifting=True"),
    ({"_class_name": UNIPC, "lower_order_final": False}, "lower_order_final=False"),
    (
        {"_class_name": "LCMScheduler", "rescale_betas_zero_snr": True},
        "rescale_betas_zero_snr=True",
    ),
]


@pytest.mark.parametrize("settings, names", REFUSED, ids=[names for _, names in REFUSED])
def test_refused_settings(settings, names):
    with pytest.raises(InputError, match=names) as raised:
        make_sampler(ScheduleConfig.from_dict(settings), None, 10)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "settings, name",
    [
        ({"clip_sample": True, "thresholding": True}, "euler"),
        ({"timestep_type": "continuous", "interpolation_type": "log_linear"}, "dpmpp_2m"),
        ({"solver_order": 4, "algorithm_type": "dpmsolver"}, "ddim"),
        ({"use_beta_sigmas": True, "timestep_spacing": "x"}, "lcm"),
        ({"_class_name": "PNDMScheduler"}, "euler"),
    ],
)
def test_settings_the_scheduler_does_not_read(settings, name):
    make_sampler(ScheduleConfig.from_dict(settings), name, 10)


@pytest.mark.parametrize(
    "name, steps, eta, names",
    [
        ("euler", 0, 0.0, "num_inference_steps=0"),
        ("euler", -3, 0.0, "num_inference_steps=-3"),
        ("euler", 1001, 0.0, "1 to 1000"),
        ("euler", 10.0, 0.0, "whole number"),
        ("dpmpp_2m", 1000, 0.0, "use fewer steps"),
        ("ddim", 1000, 0.0, "timesteps 1000 to 1"),
        ("lcm", 51, 0.0, "at most original_inference_steps=50"),
        ("Euler", 10, 0.0, "scheduler='Euler'"),
        ("euler", 10, 0.5, "eta=0.5 has no effect"),
        ("ddim", 10, -0.5, "eta=-0.5"),
        ("ddim", 10, 1.5, "eta=1.5"),
        ("ddim", 10, float("nan"), "eta=nan"),
    ],
)
def test_refused_arguments(name, steps, eta, names):
    with pytest.raises(InputError, match=names) as raised:
        make_sampler(ScheduleConfig(), name, steps, eta)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "ddim",
            {"timesteps": [9, 5]},
            "timesteps with DDIMScheduler is not supported: choose",
        ),
        ("unipc", {"sigmas": [9.0, 0.0]}, "sigmas with UniPC.* is not supported: choose euler"),
        ("euler_karras", {"timesteps": [9, 5]}, "timesteps with Karras sigmas: give one of them"),
        ("euler", {"timesteps": [9, 5], "sigmas": [9.0, 0.0]}, "say the same: give one of them"),
        (
            "euler",
            {"timesteps": [5, 9]},
            "expected falling numbers of at most 999",
        ),
        ("euler", {"timesteps": [1000]}, "of at most 999"),
        ("lcm", {"timesteps": []}, "expected falling numbers"),
        ("euler", {"sigmas": [1.0, 1.0]}, "expected falling numbers, not below 0"),
        ("euler", {"sigmas": [1.0, -1.0]}, "not below 0"),
        ("euler", {"sigmas": [1.0]}, "expected one for each step, and the end's"),
    ],
)
def test_refused_steps(name, given, message):
    with pytest.raises(InputError, match=message) as raised:
        make_sampler(ScheduleConfig(), name, 10, **given)
    assert "\n" not in str(raised.value)
