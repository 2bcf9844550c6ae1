"""Pictures in a running batch have the images that they have alone."""

import numpy as np
import pytest

from instantid_jax.diffusion.names import BASES, SAMPLERS
from instantid_jax.diffusion.rules import StepRule
from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.serving.group import Group
from instantid_jax.serving.job import Job
from instantid_jax.serving.picture import Picture
from instantid_jax.serving.pool import EVERY_SAMPLER
from instantid_jax.serving.warming import arrive
from tests.pipeline.small_model import SIZE
from tests.pipeline.test_batches import error
from tests.serving.asking import ask

# float32 rounding after a few steps.
TOLERANCE = 1e-5
ROWS = 4
INSIDE = np.zeros(SIZE, np.uint8)
INSIDE[8:48, 16:80] = 255
IMAGE = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def group_of(pipe):
    """A group of a request's kind, with batches of four rows; and the picture of a request."""

    def make(request):
        return Picture(Job(request), 0, plan := pipe.resolve([request]), arrive(pipe.model, plan))

    def group(picture):
        return Group(pipe.model, picture.kind, {ROWS: 1.0}, ROWS)

    with pipe.model.on_devices(pipe.model.dtype):
        yield group, make


def run(group: Group, *pictures: Picture, joining: int = 0) -> list[np.ndarray]:
    """Steps pictures to their end, the first from the start and the others from a step on."""
    made = {}
    group.insert(pictures[0])
    step = 0
    while group.pictures or step < joining:
        if step == joining:
            for picture in pictures[1:]:
                group.insert(picture)
        group.step(ROWS, list(group.pictures))
        for picture in [picture for picture in group.pictures if picture.done]:
            made[picture] = np.asarray(group.latents(picture))
            group.remove(picture)
        step += 1
    return [made[picture] for picture in pictures]


def alone(pipe, request) -> np.ndarray:
    return pipe.run([request], output_type="latent").latents


def test_one_rule_serves_every_sampler(pipe):
    rules = [make_sampler(pipe.model.schedule, name, 8).rule for name in SAMPLERS]
    assert StepRule.covering(rules) == EVERY_SAMPLER


# Each compiles a step of its own to be compared with.
FAST = ("euler", "unipc")


@pytest.mark.parametrize(
    "scheduler",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in BASES],
)
def test_a_picture_that_joins_late_changes_nothing(pipe, group_of, scheduler):
    group, make = group_of
    asked = ask(1, scheduler=scheduler, num_inference_steps=4)
    # Its sampler, strength and number of steps differ.
    joins = ask(2, scheduler="dpmpp_2m_sde", num_inference_steps=2, ip_adapter_scale=0.3)
    (first,) = run(group(make(asked)), make(asked))
    (second,) = run(group(make(joins)), make(joins))
    assert error(first, alone(pipe, asked)) < TOLERANCE
    assert error(second, alone(pipe, joins)) < TOLERANCE
    for joining in range(len(pipe.resolve([asked]).samplers)):
        ours, others = run(group(make(asked)), make(asked), make(joins), joining=joining)
        np.testing.assert_array_equal(ours, first)
        np.testing.assert_array_equal(others, second)


MIXED = {
    "guided": {"guidance_scale": 7.0},
    "unguided": {"guidance_scale": 1.0},
    "image": {"image": IMAGE, "strength": 0.7},
    "mask": {"image": IMAGE, "mask_image": INSIDE, "guidance_scale": 1.0},
    "control mask": {"control_mask": INSIDE, "ip_adapter_end": 0.5},
    "guess mode": {"guess_mode": True, "control_guidance_end": 0.6},
    "rescaled": {"guidance_rescale": 0.5, "guidance_interval": (0.3, 5.0)},
    "projected": {"apg_eta": 0.0, "mimic_scale": 2.0},
    "perturbed": {"pag_scale": 3.0},
    "perturbed, unguided": {"pag_scale": 3.0, "guidance_scale": 1.0},
    "FreeU": {"freeu": (0.9, 0.2, 1.3, 1.4)},
    "continued": {"image": IMAGE, "denoising_start": 0.3},
}


# These compile steps of their own.
VARIANTS = ("perturbed", "perturbed, unguided", "FreeU")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in VARIANTS else ()) for n in MIXED]
)
def test_all_that_is_data_mixes(pipe, group_of, name):
    group, make = group_of
    asked = ask(3, num_inference_steps=4, **{"kps_image": IMAGE} | MIXED[name])
    plain = ask(4, kps_image=IMAGE)
    picture = make(asked)
    others = [make(plain)] if make(plain).kind == picture.kind else []
    in_batch = run(group(picture), picture, *others, joining=1)
    assert error(in_batch[0], alone(pipe, asked)) < TOLERANCE
    for latents in in_batch[1:]:
        assert error(latents, alone(pipe, plain)) < TOLERANCE
    usual = ask(3, num_inference_steps=4, kps_image=IMAGE)
    assert error(in_batch[0], alone(pipe, usual)) > 100 * TOLERANCE


def test_three_unguided_pictures_share_a_batch(pipe, group_of):
    group, make = group_of
    asked = [ask(i, guidance_scale=1.0, num_inference_steps=2 + i) for i in range(3)]
    pictures = [make(request) for request in asked]
    for request, latents in zip(asked, run(group(pictures[0]), *pictures, joining=1), strict=True):
        assert error(latents, alone(pipe, request)) < TOLERANCE


def test_what_differs_in_shape_is_of_another_kind(group_of):
    _, make = group_of
    kinds = [
        make(request).kind
        for request in (
            ask(),
            ask(height=64, width=64),
            ask(prompt="word " * 25),
            ask(pag_scale=1.0),
            ask(freeu=(1, 1, 1.1, 1.2)),
        )
    ]
    assert len(set(kinds)) == len(kinds)
    same = ask(5, guidance_scale=1.0, scheduler="unipc", image=IMAGE, kps_image=IMAGE)
    assert make(same).kind == kinds[0]
