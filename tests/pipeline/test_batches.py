"""One picture alone and among others; what a seed draws."""

import jax
import numpy as np
import pytest

from instantid_jax.errors import InputError
from instantid_jax.pipeline.stages import INITIAL
from instantid_jax.pipeline.step import draw_noise
from instantid_jax.request import Request
from tests.pipeline.small_model import SIZE, person, unit_noise

PROMPTS = ["a man in the rain", "a woman on mars", "film noir", ""]
SEEDS = [5, 0, 2**32 - 1, 6]
# float32 rounding after three steps.
TOLERANCE = 1e-5


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def people(count: int) -> list:
    return [person(i) for i in range(count)]


@pytest.fixture(scope="module")
def batch(sample):
    return sample(prompt=PROMPTS, face=people(4), seed=SEEDS, pose=people(5)[1:], output_type="np")


@pytest.mark.parametrize("i", range(4))
def test_a_picture_is_the_same_alone_and_in_a_batch(sample, batch, i):
    alone = sample(
        prompt=PROMPTS[i], face=person(i), seed=SEEDS[i], pose=person(i + 1), output_type="np"
    )
    assert error(batch.latents[i], alone.latents[0]) < TOLERANCE
    np.testing.assert_allclose(batch.images[i], alone.images[0], atol=1e-4)
    others = [batch.latents[j] for j in range(4) if j != i]
    assert min(error(other, alone.latents[0]) for other in others) > 0.1


def test_every_picture_of_a_prompt_has_a_seed_of_its_own(sample, batch):
    asked = {"pose": person(1), "face": person(0), "num_images_per_prompt": 2}
    several = sample(prompt=PROMPTS[:2], seed=[5, 9], **asked)
    assert several.seeds == [5, 6, 9, 10]
    assert error(several.latents[0], batch.latents[0]) < TOLERANCE
    for i, seed in enumerate(several.seeds):
        alone = sample(prompt=PROMPTS[i // 2], seed=seed, pose=person(1))
        assert error(several.latents[i], alone.latents[0]) < TOLERANCE


def test_one_value_stands_for_all_of_a_batch(sample):
    of_seeds = sample(prompt="rain", seed=range(4))
    of_prompts = sample(prompt=["rain"] * 4, face=[person(0)] * 4, seed=np.arange(4))
    assert of_seeds.seeds == of_prompts.seeds == [0, 1, 2, 3]
    np.testing.assert_array_equal(of_seeds.latents, of_prompts.latents)


def test_the_same_call_gives_the_same_bits(sample):
    first, second = (sample(seed=4, output_type="np") for _ in range(2))
    np.testing.assert_array_equal(first.latents, second.latents)
    np.testing.assert_array_equal(first.images, second.images)


def test_lists_of_different_lengths_are_refused(sample):
    with pytest.raises(InputError, match=r"prompt 2, face 3"):
        sample(prompt=["a", "b"], face=people(3))
    with pytest.raises(InputError, match=r"prompt 0"):
        sample(prompt=[])


@pytest.mark.parametrize("step", [0, 7, INITIAL])
def test_noise_is_drawn_from_seed_and_step(step):
    shape = (3, 5, 4)
    drawn = draw_noise(np.array(SEEDS, np.uint32), np.full(len(SEEDS), step, np.uint32), shape)
    for seed, noise in zip(SEEDS, np.asarray(drawn), strict=True):
        key = jax.random.fold_in(jax.random.key(np.uint32(seed)), step)
        np.testing.assert_allclose(noise, jax.random.normal(key, shape), rtol=1e-6, atol=1e-6)


def test_a_seed_draws_the_noise_that_may_be_given_as_latents(sample):
    seed, initial = np.array([7], np.uint32), np.array([INITIAL], np.uint32)
    noise = draw_noise(seed, initial, (SIZE[0] // 8, SIZE[1] // 8, 4))
    given = sample(latents=np.asarray(noise), seed=0)
    np.testing.assert_array_equal(given.latents, sample(seed=7).latents)
    assert error(sample(latents=unit_noise(1)).latents, given.latents) > 0.1


def test_stochastic_steps_draw_from_the_seed(sample):
    """Initial latents given, so that the seed counts in the steps alone."""
    pictures = {
        seed: sample(scheduler="euler_ancestral", latents=unit_noise(1), seed=seed).latents
        for seed in (1, 2)
    }
    again = sample(scheduler="euler_ancestral", latents=unit_noise(1), seed=1).latents
    np.testing.assert_array_equal(again, pictures[1])
    assert error(pictures[2], pictures[1]) > 0.1


MIXED = (
    {"scheduler": "euler", "guidance_scale": 3.0, "num_inference_steps": 4},
    {"scheduler": "dpmpp_2m_karras", "guidance_scale": 9.0, "num_inference_steps": 6},
    {"scheduler": "unipc", "ip_adapter_scale": 0.2, "control_guidance_end": 0.5},
    {"scheduler": "euler_ancestral", "guess_mode": True, "num_inference_steps": 3},
    {"guidance_scale": 1.0, "controlnet_conditioning_scale": 0.4, "num_inference_steps": 2},
    {"negative_prompt": "blurry", "num_inference_steps": 5},
)


def requests_of(settings, **common) -> list[Request]:
    height, width = SIZE
    size = {"height": height, "width": width}
    return [
        Request("rain", face=person(i), seed=i, **size | {"num_inference_steps": 6} | common | each)
        for i, each in enumerate(settings)
    ]


@pytest.mark.slow
def test_requests_of_other_samplers_steps_and_scales_share_a_batch(pipe):
    requests = requests_of(MIXED)
    together = pipe.run(requests, output_type="latent").latents
    for i, request in enumerate(requests):
        alone = pipe.run([request], output_type="latent").latents[0]
        assert error(together[i], alone) < TOLERANCE, MIXED[i]


def test_requests_of_other_numbers_of_images_share_a_batch(pipe):
    settings = [{"num_images_per_prompt": 2}, {"num_images_per_prompt": 1}]
    requests = requests_of(settings, num_inference_steps=2)
    together = pipe.run(requests, output_type="latent")
    assert together.seeds == [0, 1, 1]
    alone = pipe.run(requests[:1], output_type="latent").latents
    assert error(together.latents[:2], alone) < TOLERANCE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            [{}, {"height": 64, "width": 64}],
            "a batch has one size, these ask for 64 x 64, 64 x 128",
        ),
        ([{"clip_skip": 1}, {}], r"clip_skip=\[0, 1\] in one batch"),
        ([{}, {"latents": unit_noise(1)}], "some requests of a batch give latents"),
    ],
)
def test_what_cannot_share_a_batch_is_refused(pipe, settings, message):
    with pytest.raises(InputError, match=message):
        pipe.run(requests_of(settings))
    with pytest.raises(InputError, match="no requests"):
        pipe.run([])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_threefry_partitionable", False),
        ("jax_default_prng_impl", "rbg"),
    ],
)
def test_the_noise_of_a_seed_does_not_depend_on_settings_of_jax(setting, value):
    def draw():
        return np.asarray(draw_noise(np.uint32([5]), np.uint32([2]), (4, 6, 4)))

    wanted, before = draw(), getattr(jax.config, setting)
    jax.config.update(setting, value)
    try:
        found = draw()
    finally:
        jax.config.update(setting, before)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)
