"""Forms of guidance in whole runs, against diffusers' own."""

import pytest

from instantid_jax import InstantIDPipeline
from tests.parity.reference import InstantIDReference, relative_error
from tests.parity.test_end_to_end import TOLERANCE, sample, sample_torch

STEPS = 4
ELSEWHERE = ("down_blocks.1", "up_blocks.0.attentions.1")
FORMS = {
    "rescaled": {"guidance_rescale": 0.7},
    "perturbed": {"pag_scale": 3.0},
    "perturbed less with time": {"pag_scale": 3.0, "pag_adaptive_scale": 0.005},
    "perturbed and rescaled": {"pag_scale": 2.0, "guidance_rescale": 0.5},
    # Each compiles a step of its own.
    "perturbed without negative rows": {"pag_scale": 3.0, "guidance_scale": 1.0},
    "perturbed elsewhere": {"pag_scale": 2.0, "pag_applied_layers": ELSEWHERE},
}
SLOW = ("perturbed without negative rows", "perturbed elsewhere")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def reference(folder):
    reference = InstantIDReference(folder, seed=7)
    reference.save(folder)
    return reference


@pytest.fixture(scope="module")
def pipe(folder, reference):
    return InstantIDPipeline.load(sdxl=str(folder / "sdxl"), instantid=str(folder / "instantid"))


@pytest.mark.parametrize(
    "form", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in FORMS]
)
def test_form_matches_diffusers(pipe, reference, form):
    given = {"num_inference_steps": STEPS, "count": 2} | FORMS[form]
    theirs = sample_torch(reference, **given)
    ours = sample(pipe, **given)
    assert relative_error(ours.latents, theirs.latents) < TOLERANCE


def test_freeu_matches_diffusers(pipe, reference):
    factors = (0.9, 0.2, 1.3, 1.4)
    plain = sample(pipe, num_inference_steps=STEPS)
    reference.unet.enable_freeu(*factors)
    try:
        theirs = sample_torch(reference, num_inference_steps=STEPS)
    finally:
        reference.unet.disable_freeu()
    ours = sample(pipe, num_inference_steps=STEPS, freeu=factors)
    assert relative_error(ours.latents, theirs.latents) < TOLERANCE
    assert relative_error(ours.latents, plain.latents) > 0.01
