"""Samplers that begin with an image, against diffusers' schedulers as its pipelines use them."""

import diffusers
import numpy as np
import pytest
import torch

from instantid_jax.diffusion.names import BASES
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.errors import InputError
from tests.parity.test_samplers import (
    SDXL,
    diffusers_scheduler,
    drawing,
    error,
    network,
    pytestmark,
    step,
    unit_noise,
)

__all__ = ["pytestmark"]

# diffusers' PNDM does not begin in the middle: its second call repeats a step that was not taken.
NAMES = [*(set(BASES) - {"pndm"}), "euler_trailing", "dpmpp_2m_karras", "ddim_trailing"]
STRENGTHS = (0.3, 0.58, 0.85, 1.0)


def image():
    return np.random.default_rng(3).uniform(-2, 2, unit_noise(1)[0].shape).astype(np.float32)


def mask():
    return (np.random.default_rng(4).random((*image().shape[:3], 1)) < 0.5).astype(np.float32)


def run_diffusers(scheduler, count, strength, monkeypatch, *, keeps):
    """As StableDiffusionXLImg2ImgPipeline, and with `keeps` as ...InpaintPipeline's four channels.

    Source: their `get_timesteps`, `prepare_latents` and `__call__`.
    """
    scheduler.set_timesteps(count)
    start = (count - min(int(count * strength), count)) * scheduler.order
    timesteps = scheduler.timesteps[start:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    noise = unit_noise(1 + len(timesteps))
    clean, first = torch.from_numpy(image()), torch.from_numpy(noise[0])
    x = scheduler.add_noise(clean, first, timesteps[:1].repeat(len(first)))
    drawing(monkeypatch, iter(noise[1:]))
    for i, t in enumerate(timesteps):
        scaled = scheduler.scale_model_input(x, t)
        output = torch.from_numpy(network(scaled.numpy(), float(t)))
        # TCD's own default is not 0, as the pipelines' is.
        options = {"eta": 0.0} if isinstance(scheduler, diffusers.TCDScheduler) else {}
        x = scheduler.step(output, t, x, **options).prev_sample
        if keeps:
            kept = clean
            if i + 1 < len(timesteps):
                kept = scheduler.add_noise(clean, first, timesteps[i + 1 : i + 2])
            x = (1 - torch.from_numpy(mask())) * kept + torch.from_numpy(mask()) * x
    return x.numpy()


def run_ours(sampler, *, keeps):
    noise = unit_noise(1 + len(sampler))
    signal, deviation = (column.astype(np.float32) for column in sampler.levels)
    state = sampler.rule.init(signal[0] * image() + deviation[0] * noise[0])
    for i, t in enumerate(sampler.timesteps):
        row = sampler.row(i)
        scaled = np.asarray(sampler.rule.scale_input(state, row))
        draw = noise[1 + i] if sampler.rule.stochastic else None
        state = step(sampler.rule, state, network(scaled, float(t)), row, draw)
        if keeps:
            kept = signal[i + 1] * image() + deviation[i + 1] * noise[0]
            state["sample"] = (1 - mask()) * kept + mask() * state["sample"]
    return np.asarray(state["sample"])


@pytest.mark.parametrize("keeps", [False, True], ids=["image", "inpaint"])
@pytest.mark.parametrize("name", sorted(NAMES))
def test_final_latents(name, keeps, monkeypatch):
    for count in (4, 10, 30):
        for strength in STRENGTHS:
            sampler = make_sampler(ScheduleConfig.from_dict(SDXL), name, count, strength=strength)
            scheduler = diffusers_scheduler(SDXL, name)
            reference = run_diffusers(scheduler, count, strength, monkeypatch, keeps=keeps)
            latents = run_ours(sampler, keeps=keeps)
            assert error(latents, reference) <= 2e-5, (count, strength)
            monkeypatch.undo()


def test_pndm_continues_as_a_whole_run_does():
    """Without the network's history, the rest of a run is that of the same steps."""
    config = ScheduleConfig.from_dict(SDXL)
    whole, part = make_sampler(config, "pndm", 10), make_sampler(config, "pndm", 10, strength=0.5)
    np.testing.assert_array_equal(part.timesteps[2:], whole.timesteps[-4:])
    assert len(part) == 6


@pytest.mark.parametrize(
    ("count", "strength", "taken"),
    # int() truncates in binary floating point, as in diffusers.
    [(30, 0.85, 25), (10, 0.29, 2), (100, 0.29, 28), (50, 0.58, 28), (30, 0.9999, 29), (4, 1, 4)],
)
def test_number_of_steps(count, strength, taken):
    assert len(make_sampler(ScheduleConfig(), "euler", count, strength=strength)) == taken


def test_a_strength_that_takes_no_step_is_refused():
    with pytest.raises(InputError, match=r"strength=0.2 of num_inference_steps=4 takes no step"):
        make_sampler(ScheduleConfig(), "euler", 4, strength=0.2)
