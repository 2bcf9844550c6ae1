"""Samplers against diffusers' schedulers: same fake network, same noise, every step."""

import dataclasses
import functools
import inspect
import itertools
import sys

import diffusers
import jax
import numpy as np
import pytest
import torch
from diffusers.schedulers import (
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_dpmsolver_sde,
    scheduling_euler_ancestral_discrete,
    scheduling_lcm,
    scheduling_tcd,
)

from instantid_jax.diffusion.names import BASES, SAMPLERS
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import (
    ScheduleConfig,
    add_noise,
    alphas_cumprod,
    velocity_target,
)
from instantid_jax.errors import InputError
from tests.parity.reference import BrownianMotion

pytestmark = [
    # diffusers calls np.array(tensor); torch 2.13's __array__ does not know NumPy 2's `copy`.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # DEIS calls np.log(tensor).
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

SHAPE = (2, 8, 8, 4)
# SDXL base 1.0's scheduler/scheduler_config.json.
SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


def network(x, t):
    """A smooth stand-in for the UNet, the same float32 arithmetic for both sides."""
    dtype = x.dtype
    return (0.8 * x + 0.4 * np.tanh(1.5 * x + dtype.type(t / 400 - 1))).astype(dtype)


def unit_noise(count):
    return np.random.default_rng(7).standard_normal((count, *SHAPE), np.float32)


def diffusers_scheduler(config, name, **settings):
    """The scheduler from `X.from_config(pipe.scheduler.config, ...)`."""
    own = getattr(diffusers, config["_class_name"]).from_config(config)
    if name is None:
        return own
    class_name, name_settings = SAMPLERS[name]
    return getattr(diffusers, class_name).from_config(own.config, **name_settings, **settings)


class Float64Torch:
    """torch for a scheduler's module, with float64 where the scheduler casts to float32."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def drawing(monkeypatch, draws):
    """Gives all schedulers the noise of an iterator."""
    for module in (
        scheduling_ddim,
        scheduling_ddpm,
        scheduling_dpmsolver_multistep,
        scheduling_euler_ancestral_discrete,
        scheduling_lcm,
        scheduling_tcd,
    ):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.tensor(next(draws)))
    motion = BrownianMotion(lambda: torch.from_numpy(next(draws)))
    monkeypatch.setattr(scheduling_dpmsolver_sde, "BrownianTreeNoiseSampler", lambda *_: motion)


def run_diffusers(scheduler, steps, monkeypatch, eta=0.0, in_float64=False):
    """[B, H, W, C]: the final latents, and leaves the scheduler as it was set for them.

    Args:
      steps: their number, or the arguments of `set_timesteps`.
    """
    scheduler.set_timesteps(
        **(steps if isinstance(steps, dict) else {"num_inference_steps": steps})
    )
    noise = unit_noise(1 + len(scheduler.timesteps))
    draws = iter(noise[1:])
    drawing(monkeypatch, draws)
    x = torch.from_numpy(noise[0]) * scheduler.init_noise_sigma
    if in_float64:
        monkeypatch.setattr(sys.modules[type(scheduler).__module__], "torch", Float64Torch())
        scheduler.sigmas = scheduler.sigmas.double()
        x = x.double()
    # TCD's own default is not 0, as the pipelines' is.
    takes_eta = "eta" in inspect.signature(scheduler.step).parameters
    options = {"eta": eta} if takes_eta else {}
    if hasattr(scheduler, "set_begin_index"):
        # Else a first timestep that occurs twice (Karras sigmas at zero SNR) starts diffusers at
        # the second and ends in an IndexError.
        scheduler.set_begin_index(0)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        output = torch.from_numpy(network(scaled.numpy(), float(t)))
        x = scheduler.step(output, t, x, **options).prev_sample
    return x.numpy()


@functools.partial(jax.jit, static_argnames="rule")
def step(rule, state, output, row, noise):
    return rule.step(state, output, row, noise)


def run_ours(sampler, noise=None):
    noise = unit_noise(1 + len(sampler)) if noise is None else noise
    state = sampler.rule.init(noise[0] * np.float32(sampler.init_noise_sigma))
    for i, t in enumerate(sampler.timesteps):
        row = sampler.row(i)
        scaled = np.asarray(sampler.rule.scale_input(state, row))
        draw = noise[1 + i] if sampler.rule.stochastic else None
        state = step(sampler.rule, state, network(scaled, float(t)), row, draw)
    return np.asarray(state["sample"])


def error(ours, reference):
    return np.linalg.norm(ours - reference) / np.linalg.norm(reference)


def check(config, name, steps, monkeypatch, eta=0.0, in_float64=False, **settings):
    """Compares one run and returns our latents."""
    case = f"{name}, {steps} steps, {config}"
    scheduler = diffusers_scheduler(config, name, **settings)
    reference = run_diffusers(scheduler, steps, monkeypatch, eta, in_float64)
    given = steps if isinstance(steps, dict) else {"num_inference_steps": steps}
    given = {"num_inference_steps": 1} | given
    sampler = make_sampler(ScheduleConfig.from_dict(config), name, eta=eta, **given)
    timesteps = np.float32(scheduler.timesteps)
    if np.any(timesteps % 1):
        # Found by interpolation in sigmas, and torch's square root is not always the nearest one.
        np.testing.assert_allclose(sampler.timesteps, timesteps, rtol=1e-6, err_msg=case)
    else:
        np.testing.assert_array_equal(sampler.timesteps, timesteps, case)
    assert sampler.timesteps.dtype == np.float32
    sigma = float(scheduler.init_noise_sigma)
    assert abs(sampler.init_noise_sigma - sigma) <= 1e-6 * sigma, case
    latents = run_ours(sampler)
    if isinstance(scheduler, diffusers.DEISMultistepScheduler) and not in_float64:
        # diffusers' third order cancels in float32 (`test_deis_of_third_order`).
        third = scheduler.config.solver_order == 3
        assert error(latents, reference) <= (1e-4 if third else 2e-5), case
        return latents
    # Rounding alone is up to 1.04e-5, on some processors, from the large sigmas of zero SNR.
    assert error(latents, reference) <= 2e-5, case
    return latents


def rounds_badly_in_torch(config, name, steps):
    """From sigma 4096, the ᾱ = 2^-24 of zero terminal SNR, in a few steps of Euler's method.

    The sample is then near 4096 and diffusers subtracts almost all of it: what is left of float32
    is 2e-5 to 2e-4 of the result (`test_few_steps_from_zero_snr` shows it).
    """
    sampler = make_sampler(ScheduleConfig.from_dict(config), name, steps)
    return (
        sampler.init_noise_sigma > 4000
        and steps < 14
        and config["prediction_type"] == "v_prediction"
    )


# These divide by the signal of a timestep, which may be 0.
WITHOUT_SNR = ("ddim", "ddpm", "lcm", "tcd")
STEPS = (1, 2, 4, 5, 14, 15, 16, 30, 50)


SPACINGS = ("leading", "linspace", "trailing")
SETTINGS = (tuple(BASES), ("epsilon", "v_prediction"), (False, True), SPACINGS)
# Every pair of settings is in a quarter of the combinations; the rest are slow.
COMBINATIONS = [
    pytest.param(*chosen, marks=[] if (i + j + 2 * k + m) % 4 == 0 else pytest.mark.slow)
    for (i, j, k, m), chosen in zip(
        itertools.product(*(range(len(values)) for values in SETTINGS)),
        itertools.product(*SETTINGS),
        strict=True,
    )
]


@pytest.mark.parametrize(("name", "prediction_type", "zero_snr", "spacing"), COMBINATIONS)
def test_final_latents(name, prediction_type, zero_snr, spacing, monkeypatch):
    config = {
        **SDXL,
        "prediction_type": prediction_type,
        "rescale_betas_zero_snr": zero_snr,
        "timestep_spacing": spacing,
    }
    compared = 0
    for steps in STEPS:
        try:
            skip = rounds_badly_in_torch(config, name, steps)
        except InputError:
            # Where ᾱ is exactly 0 no noise prediction gives a denoised sample.
            scheduler = diffusers_scheduler(config, name)
            assert not np.isfinite(run_diffusers(scheduler, steps, monkeypatch)).all()
            assert name in WITHOUT_SNR and zero_snr and prediction_type == "epsilon"
            continue
        if not skip:
            check(config, name, steps, monkeypatch)
            compared += 1
    assert compared >= 5 or (zero_snr and prediction_type == "epsilon" and name in WITHOUT_SNR)


@pytest.mark.parametrize("name", ["euler", "euler_trailing", "euler_ancestral"])
@pytest.mark.parametrize("steps", [1, 2, 4, 5])
def test_few_steps_from_zero_snr(name, steps, monkeypatch):
    """Compares with diffusers in float64 if its float32 fails, at the same bound."""
    config = {
        **SDXL,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    assert rounds_badly_in_torch(config, name, steps)
    latents = check(config, name, steps, monkeypatch, in_float64=True)
    monkeypatch.undo()
    in_float32 = run_diffusers(diffusers_scheduler(config, name), steps, monkeypatch)
    assert error(latents, in_float32) < 3e-4
    if name != "euler_ancestral" or steps < 4:  # else within the bound all the same
        assert error(latents, in_float32) > 1e-5


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in BASES])
def test_names_with_a_suffix(name, monkeypatch):
    for steps in (1, 4, 20):
        check(SDXL, name, steps, monkeypatch)


# Of Align Your Steps, of DMD2, and of single steps.
TIMESTEPS = (
    [999, 845, 730, 587, 443, 310, 193, 116, 53, 13],
    [999, 749, 499, 249],
    [800],
    [399],
)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "name", ["euler", "heun", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "tcd"]
)
def test_explicit_timesteps(name, prediction_type, monkeypatch):
    config = {**SDXL, "prediction_type": prediction_type}
    for timesteps in TIMESTEPS:
        latents = check(config, name, {"timesteps": timesteps}, monkeypatch)
    usual = run_ours(make_sampler(ScheduleConfig.from_dict(config), name, 1))
    assert error(latents, usual) > 1e-3


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_explicit_sigmas(prediction_type, monkeypatch):
    config = {**SDXL, "prediction_type": prediction_type}
    for sigmas in ([14.615, 6.3, 2.6, 1.2, 0.6, 0.0], [10.0, 1.0, 0.1], [14.6, 0.0]):
        check(config, "euler", {"sigmas": sigmas}, monkeypatch)


SAMPLE = [name for name in BASES if name not in ("euler_ancestral", "pndm", "dpmpp_sde")]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLE)
def test_predictions_of_the_denoised_sample(name, spacing, monkeypatch):
    config = {**SDXL, "prediction_type": "sample", "timestep_spacing": spacing}
    for steps in (1, 4, 20):
        check(config, name, steps, monkeypatch)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.1, 0.3, 0.7, 1.0])
def test_tcd_with_noise(eta, prediction_type, monkeypatch):
    config = {**SDXL, "prediction_type": prediction_type}
    for steps in (1, 2, 4, 8, 50):
        latents = check(config, "tcd", steps, monkeypatch, eta)
    without = run_ours(make_sampler(ScheduleConfig.from_dict(config), "tcd", 50))
    assert error(latents, without) > 0.01


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_deis_of_third_order(prediction_type, monkeypatch):
    """Compares with diffusers in float64."""
    config = {**SDXL, "_class_name": DEIS, "prediction_type": prediction_type, "solver_order": 3}
    for steps in (3, 12, 14, 15, 25):
        check(config, None, steps, monkeypatch, in_float64=True)


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_sde_karras"])
@pytest.mark.parametrize("steps", [2, 8, 30])
def test_dpm_solver_sde_with_torchsde(name, steps, monkeypatch):
    """Our noise is that of torchsde's Brownian motion, taken apart into independent halves."""
    made = []

    class Recorded(scheduling_dpmsolver_sde.BrownianTreeNoiseSampler):
        def __call__(self, sigma, target):
            made.append((float(sigma), float(target), super().__call__(sigma, target)))
            return made[-1][2]

    scheduler = diffusers_scheduler(SDXL, name, noise_sampler_seed=3)
    scheduler.set_timesteps(steps)
    monkeypatch.setattr(scheduling_dpmsolver_sde, "BrownianTreeNoiseSampler", Recorded)
    noise = [unit_noise(1)[0]]
    x = torch.from_numpy(noise[0]) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t).numpy(), float(t))
        x = scheduler.step(torch.from_numpy(output), t, x).prev_sample
    for (sigma, middle, first), (_, target, second) in zip(made[::2], made[1::2], strict=True):
        share = (sigma - middle) / (sigma - target)
        rest = (second - share**0.5 * first) / (1 - share) ** 0.5
        noise += [first.numpy(), rest.numpy()]
    independent = np.array(noise[1:])
    assert abs(independent.std() - 1) < 0.1
    halves = np.corrcoef(independent[::2].ravel(), independent[1::2].ravel())
    assert abs(halves[0, 1]) < 4 / np.sqrt(independent[::2].size)
    sampler = make_sampler(ScheduleConfig.from_dict(SDXL), name, steps)
    assert error(run_ours(sampler, [*noise, noise[0]]), x.numpy()) < 2e-5


def test_names_are_different_samplers(monkeypatch):
    latents = {name: check(SDXL, name, 16, monkeypatch) for name in BASES}
    # Ancestral sampling is the same in both forms.
    assert error(latents.pop("ddpm"), latents["euler_ancestral"]) < 1e-5
    for a, b in itertools.combinations(latents, 2):
        assert error(latents[a], latents[b]) > 1e-3, (a, b)


DPM, UNIPC, LCM = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "LCMScheduler"
EULER, ANCESTRAL, DDIM = SDXL["_class_name"], "EulerAncestralDiscreteScheduler", "DDIMScheduler"
HEUN, DDPM, PNDM = "HeunDiscreteScheduler", "DDPMScheduler", "PNDMScheduler"
DEIS, TCD = "DEISMultistepScheduler", "TCDScheduler"
KARRAS, SIGMA_MIN = {"use_karras_sigmas": True}, {"final_sigmas_type": "sigma_min"}
# Settings of a checkpoint's own scheduler, each of which must change the numbers.
OWN = [
    (EULER, KARRAS),
    (EULER, KARRAS | {"sigma_min": 0.1, "sigma_max": 10.0}),
    (EULER, SIGMA_MIN),
    (EULER, {"steps_offset": 0}),
    (EULER, {"beta_schedule": "linear"}),
    (EULER, {"beta_schedule": "squaredcos_cap_v2"}),
    (EULER, {"beta_end": 0.02}),
    (EULER, {"trained_betas": np.linspace(0.001, 0.02, 1000).tolist()}),
    (EULER, {"num_train_timesteps": 500}),
    (ANCESTRAL, {"timestep_spacing": "trailing"}),
    (DDIM, {"set_alpha_to_one": True}),
    (DPM, KARRAS),
    (DPM, {"use_lu_lambdas": True}),
    (DPM, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}),
    (DPM, {"algorithm_type": "sde-dpmsolver++"}),
    (DPM, {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
    (DPM, {"algorithm_type": "sde-dpmsolver++"} | KARRAS | SIGMA_MIN),
    (DPM, {"algorithm_type": "sde-dpmsolver++", "euler_at_final": True} | SIGMA_MIN),
    (DPM, {"solver_type": "heun"}),
    (DPM, {"solver_order": 1}),
    (DPM, {"solver_order": 3}),
    (DPM, {"solver_order": 3, "lower_order_final": False}),
    (DPM, SIGMA_MIN),
    (DPM, {"lower_order_final": False} | SIGMA_MIN),
    (DPM, {"lower_order_final": False, "euler_at_final": True} | SIGMA_MIN),
    (UNIPC, KARRAS),
    (UNIPC, KARRAS | SIGMA_MIN | {"sigma_min": 0.1}),
    (UNIPC, {"solver_type": "bh1"} | SIGMA_MIN),
    (UNIPC, {"solver_order": 1}),
    (UNIPC, {"solver_order": 3}),
    (UNIPC, {"solver_order": 3, "solver_type": "bh1"} | SIGMA_MIN),
    (UNIPC, {"disable_corrector": [0, 1]}),
    (UNIPC, {"lower_order_final": False} | SIGMA_MIN),
    (HEUN, KARRAS),
    (HEUN, {"timestep_spacing": "trailing"}),
    (DDPM, {"variance_type": "fixed_large"}),
    (DDPM, {"timestep_spacing": "linspace"}),
    (PNDM, {"set_alpha_to_one": True}),
    (PNDM, {"timestep_spacing": "trailing"}),
    (DEIS, KARRAS),
    (DEIS, {"solver_order": 1}),
    (DEIS, {"solver_order": 3}),
    (DEIS, {"solver_order": 3, "lower_order_final": False}),
    (TCD, {"original_inference_steps": 100}),
    (LCM, {"original_inference_steps": 100}),
    (LCM, {"timestep_scaling": 1e-3}),
]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "class_name, settings",
    OWN,
    ids=[f"{c}-{'-'.join(s)}-{i}" for i, (c, s) in enumerate(OWN)],
)
def test_settings_of_the_checkpoints_own_scheduler(
    class_name, settings, prediction_type, monkeypatch
):
    plain = {**SDXL, "_class_name": class_name, "prediction_type": prediction_type}
    for steps in (3, 12, 14, 15, 25):  # fewer than 15 are special to DPM-Solver
        latents = check(plain | settings, None, steps, monkeypatch)
        if steps == 12:
            usual = run_ours(make_sampler(ScheduleConfig.from_dict(plain), None, steps))
            assert error(latents, usual) > 1e-4


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("settings", [{}, {"set_alpha_to_one": True}], ids=["alpha_0", "one"])
def test_ddim_with_noise(eta, prediction_type, settings, monkeypatch):
    config = {**SDXL, "prediction_type": prediction_type} | settings
    for steps in (1, 4, 20):
        latents = check(config, "ddim", steps, monkeypatch, eta)
    assert (
        error(latents, run_ours(make_sampler(ScheduleConfig.from_dict(config), "ddim", 20))) > 0.01
    )


@pytest.mark.parametrize(
    "own, name",
    [
        # What its class reads of the checkpoint's settings, and no more.
        ({"_class_name": UNIPC, "solver_type": "bh1", "use_karras_sigmas": True}, "euler"),
        ({"_class_name": UNIPC, "solver_type": "bh1", "solver_order": 3}, "dpmpp_2m"),
        ({"_class_name": DPM, "solver_type": "heun", "use_lu_lambdas": True}, "unipc"),
        ({"_class_name": DPM, "solver_type": "logrho", "use_lu_lambdas": True}, "dpmpp_2m_karras"),
        ({"_class_name": DPM, "algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m"),
        ({"_class_name": EULER, "sigma_max": 10.0, "sigma_min": 0.2}, "dpmpp_2m_karras"),
        ({"_class_name": EULER, "clip_sample": True, "thresholding": True}, "euler_ancestral"),
        ({"_class_name": DDIM, "clip_sample": True, "set_alpha_to_one": True}, "euler"),
        ({"_class_name": LCM, "original_inference_steps": 20}, "ddim"),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, "dpmpp_2m_sde"),
        ({"_class_name": DPM, "algorithm_type": "dpmsolver++", "solver_order": 3}, "deis"),
        ({"_class_name": DDIM, "rescale_betas_zero_snr": True}, "heun"),
        ({"_class_name": EULER, "use_karras_sigmas": True}, "heun"),
    ],
)
def test_what_a_name_takes_over(own, name, monkeypatch):
    for steps in (4, 20):
        check({**SDXL, **own}, name, steps, monkeypatch)


def test_missing_keys_are_sdxl_base():
    assert ScheduleConfig.from_dict({}) == ScheduleConfig.from_dict(SDXL) == ScheduleConfig()


def test_every_key_of_the_classes_is_known():
    # These have effect only together with a refused setting.
    without_effect = {
        "dynamic_thresholding_ratio",
        "sample_max_value",
        "clip_sample_range",
        "flow_shift",
        "time_shift_type",
        # A request's seed draws all noise.
        "noise_sampler_seed",
    }
    fields = {field.name for field in dataclasses.fields(ScheduleConfig)}
    for class_name in {class_name for class_name, _ in BASES.values()}:
        keys = set(inspect.signature(getattr(diffusers, class_name).__init__).parameters)
        assert keys - {"self"} - without_effect <= fields, class_name


SCHEDULES = [
    {},
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": np.linspace(0.001, 0.02, 1000).tolist()},
    {"num_train_timesteps": 77},
]


@pytest.mark.parametrize("zero_snr", [False, True], ids=["snr", "zero_snr"])
@pytest.mark.parametrize("settings", SCHEDULES, ids=lambda s: next(iter(s), "sdxl"))
def test_training_targets(settings, zero_snr):
    """Schedule, forward process and velocity, against the scheduler that training uses."""
    config = {**SDXL, **settings, "rescale_betas_zero_snr": zero_snr}
    scheduler = diffusers.DDPMScheduler.from_config(config)
    alpha = alphas_cumprod(ScheduleConfig.from_dict(config))
    reference = scheduler.alphas_cumprod.numpy()
    # At zero SNR sqrt(ᾱ) is a float32 difference: some units in 6e-8, whatever its size.
    np.testing.assert_allclose(np.sqrt(alpha), np.sqrt(reference), rtol=0, atol=1e-6)
    if not zero_snr:
        np.testing.assert_allclose(alpha, reference, rtol=1e-6)
    else:
        assert alpha[-1] == reference[-1] == 0

    last = len(alpha) - 1
    timestep = np.array([0, 1, last // 3, last // 2, last - 1, last])
    sample, noise = np.random.default_rng(0).standard_normal((2, 6, 8, 8, 4), np.float32)
    for ours, theirs in (
        (add_noise, scheduler.add_noise),
        (velocity_target, scheduler.get_velocity),
    ):
        wanted = theirs(*(torch.from_numpy(a) for a in (sample, noise, timestep))).numpy()
        given = np.asarray(jax.jit(ours)(alpha, sample, noise, timestep))
        assert error(given, wanted) <= (1e-5 if zero_snr else 1e-6)
        assert error(np.asarray(ours(alpha, noise, sample, timestep)), wanted) > 0.1


def test_trailing_takes_no_step_at_timestep_minus_one():
    """61 is one of the counts for which diffusers' floating-point range is one too long."""
    scheduler = diffusers_scheduler(SDXL, "euler_trailing")
    scheduler.set_timesteps(61)
    sampler = make_sampler(ScheduleConfig(), "euler_trailing", 61)
    assert len(scheduler.timesteps) == 62 and scheduler.timesteps[-1] == -1
    np.testing.assert_array_equal(sampler.timesteps, scheduler.timesteps[:61])
