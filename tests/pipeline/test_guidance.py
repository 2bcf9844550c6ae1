"""Forms of guidance in a call: in batches, on meshes, and without effect."""

import itertools

import numpy as np
import pytest

from instantid_jax import InstantIDPipeline
from instantid_jax.diffusion.sampler import SamplerBatch
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import ScheduleConfig
from instantid_jax.errors import InputError
from instantid_jax.pipeline.conditions.guidance import resolve_guidance
from instantid_jax.request import Request
from instantid_jax.sharding import sampling_mesh
from tests.pipeline.small_model import SIZE, person
from tests.pipeline.test_batches import TOLERANCE, error

KINDS = ("epsilon", "v_prediction", "sample")
FORMS = {
    "rescaled": {"guidance_rescale": 0.7},
    "rescaled velocity": {"guidance_rescale_v": 0.7},
    "interval": {"guidance_interval": (0.5, 5.0)},
    "projected": {"apg_eta": 0.0, "apg_threshold": 2.0},
    "mimicked": {"mimic_scale": 1.5},
}


def asked(**changes) -> Request:
    height, width = SIZE
    given = {"face": person(0), "height": height, "width": width, "num_inference_steps": 3}
    return Request("a man in the rain", **given | changes)


def test_requests_of_other_forms_share_a_batch(pipe):
    """Each as it is alone, and each another picture."""
    requests = [asked(), *(asked(**form) for form in FORMS.values())]
    together = pipe.run(requests, output_type="latent").latents
    for latents, request in zip(together, requests, strict=True):
        alone = pipe.run([request], output_type="latent").latents
        assert error(latents, alone[0]) < TOLERANCE
    for i, latents in enumerate(together):
        for other in together[:i]:
            assert error(latents, other) > 1e-3


@pytest.mark.slow
def test_perturbed_requests_share_a_batch_with_others(pipe):
    factors = (0.9, 0.2, 1.3, 1.4)
    requests = [asked(), asked(pag_scale=3.0), asked(freeu=factors), asked(guidance_scale=1.0)]
    together = pipe.run(requests, output_type="latent").latents
    for latents, request in zip(together, requests, strict=True):
        alone = pipe.run([request], output_type="latent").latents
        assert error(latents, alone[0]) < TOLERANCE
    for other in together[1:]:
        assert error(other, together[0]) > 1e-3


def test_other_perturbed_layers_are_for_another_batch(pipe):
    requests = [asked(pag_scale=3.0), asked(pag_scale=3.0, pag_applied_layers="up_blocks")]
    with pytest.raises(InputError, match=r"pag_applied_layers.*run them separately"):
        pipe.run(requests)
    # Without perturbation, layers do not matter.
    pipe.run([requests[0], asked(pag_applied_layers="up_blocks")], output_type="latent")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 1)])
def test_forms_on_a_mesh_are_those_of_one_device(pipe, folder, shape):
    requests = [
        asked(
            guidance_rescale=0.3, guidance_rescale_v=0.7, pag_scale=3.0, freeu=(0.9, 0.2, 1.3, 1.4)
        ),
        asked(apg_eta=0.0, apg_threshold=2.0, mimic_scale=2.0, face=person(1)),
    ]
    mesh = sampling_mesh(*shape)
    on_mesh = InstantIDPipeline.load(sdxl=folder, instantid=folder, mesh=mesh)
    ours, alone = (each.run(requests, output_type="latent").latents for each in (on_mesh, pipe))
    assert error(ours, alone) < TOLERANCE


@pytest.mark.parametrize(
    ("scheduler", "kind"),
    [
        *itertools.product(("euler", "ddim", "dpmpp_2m_karras"), KINDS),
        *itertools.product(("heun", "dpmpp_sde"), KINDS[:2]),
    ],
)
def test_offsets_make_the_denoised_image_and_the_velocity(pipe, kind, scheduler):
    """Up to a factor, for the sample that the network sees at each step."""
    sampler = make_sampler(ScheduleConfig(prediction_type=kind), scheduler, 5)
    batch = SamplerBatch.of([sampler])
    request = asked(apg_threshold=3.0)
    found = resolve_guidance(pipe.model.networks.unet, [request], batch, 5.0, kind)
    clean, noise = 0.3, -1.1
    for i in range(len(sampler)):
        signal, deviation = (level[i] for level in sampler.levels)
        unit = np.hypot(signal, deviation)
        alpha, sigma = signal / unit, deviation / unit
        np.testing.assert_allclose(sampler.rows["input_scale"][i] * unit, 1, rtol=1e-5)
        velocity = alpha * noise - sigma * clean
        x, f = (
            alpha * clean + sigma * noise,
            {"epsilon": noise, "sample": clean}.get(kind, velocity),
        )
        row = found.row(i)
        of_clean, of_velocity = f + row.denoised_offset * x, f + row.velocity_offset * x
        # The threshold is for differences of the denoised image.
        factor = clean / of_clean
        np.testing.assert_allclose(abs(factor) * row.apg_threshold, 3.0, rtol=1e-3)
        other = {"epsilon": 1 / alpha, "v_prediction": 1.0, "sample": -1 / sigma}[kind]
        np.testing.assert_allclose(other * of_velocity, velocity, rtol=1e-3)


def test_interval_is_of_noise_to_signal(pipe):
    sampler = make_sampler(ScheduleConfig(), "euler", 10)
    batch = SamplerBatch.of([sampler])
    request = asked(guidance_interval=(0.28, 5.42), mimic_scale=3.0)
    found = resolve_guidance(pipe.model.networks.unet, [request], batch, 5.0, "epsilon").numbers
    inside = (sampler.levels.noise[:-1] > 0.28) & (sampler.levels.noise[:-1] <= 5.42)
    assert 0 < inside.sum() < 10
    np.testing.assert_array_equal(found.scale[:, 0], np.where(inside, 5, 1))
    np.testing.assert_array_equal(found.mimic_scale[:, 0], np.where(inside, 3, 1))
