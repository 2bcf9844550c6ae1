"""The hand-over to SDXL's refiner against diffusers: base networks, then its pipeline."""

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline

from instantid_jax import Face, InstantIDPipeline
from instantid_jax.face.keypoints import draw_keypoints
from tests.parity.reference import (
    REFINER,
    InstantIDReference,
    make_scheduler,
    make_unet,
    nchw,
    nhwc,
    relative_error,
    save_refiner,
    unit_noise,
)
from tests.parity.test_end_to_end import KPS, TORCH_SCHEDULERS

# diffusers calls np.array(tensor); torch 2.13's __array__ does not know NumPy 2's `copy`.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (64, 96)
TOLERANCE = 1e-4
EMBEDDING = unit_noise(1, 512)
PROMPT, NEGATIVE = "a man in the rain", "red"
# (steps in all, those of the base networks at 0.8), with SDXL's leading spacing.
SPLITS = [(20, 16), (25, 20), (30, 23), (50, 40)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    reference = InstantIDReference(folder, seed=11)
    reference.save(folder)
    reference.refiner = make_unet(23, **REFINER)
    save_refiner(reference.refiner, folder / "refiner")
    reference.folder = folder
    return reference


@pytest.fixture(scope="module")
def pipe(reference):
    names = ("sdxl", "instantid", "refiner")
    return InstantIDPipeline.load(**{name: str(reference.folder / name) for name in names})


def noise():
    return unit_noise(2, 1, SIZE[0] // 8, SIZE[1] // 8, 4)


@torch.no_grad()
def run_torch(
    reference, sampler, steps, end=0.8, *, negative=None, guidance=4.0, sizes=None, scores=None
):
    """[1, H, W, C] latents of diffusers, how many steps the base networks took, and theirs."""
    sizes, scores = sizes or {}, scores or {}
    name, settings = TORCH_SCHEDULERS[sampler]
    scheduler = make_scheduler(name, **settings)
    scheduler.set_timesteps(steps)
    # As its StableDiffusionXLControlNetPipeline: the steps that `denoising_end` keeps.
    cutoff = round(1000 - end * 1000)
    kept = len([t for t in scheduler.timesteps if t >= cutoff])
    seen = []
    reference(
        [PROMPT],
        EMBEDDING[None],
        [draw_keypoints(*SIZE, KPS)[None] / 255],
        noise(),
        negative_prompt=None if negative is None else [negative],
        num_inference_steps=steps,
        guidance_scale=guidance,
        scheduler=make_scheduler(name, **settings),
        on_step=lambda i, latents: seen.append(latents),
        **sizes,
    )
    refiner = StableDiffusionXLImg2ImgPipeline(
        vae=reference.vae,
        text_encoder=None,
        text_encoder_2=reference.text_encoder_2,
        tokenizer=None,
        tokenizer_2=reference.tokenizer_2,
        unet=reference.refiner,
        scheduler=make_scheduler(name, **settings),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
    )
    refiner.set_progress_bar_config(disable=True)
    latents = refiner(
        prompt=PROMPT,
        negative_prompt=negative,
        image=nchw(seen[kept - 1]),
        denoising_start=end,
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent",
        **sizes,
        **scores,
    ).images
    return nhwc(latents), kept, seen[kept - 1]


def run_ours(pipe, sampler, steps, **arguments):
    defaults = {
        "face": Face(embedding=EMBEDDING, kps=KPS, image_size=SIZE),
        "height": SIZE[0],
        "width": SIZE[1],
        "latents": noise(),
        "guidance_scale": 4.0,
        "num_inference_steps": steps,
        "scheduler": sampler,
        "output_type": "latent",
    }
    return pipe(PROMPT, **defaults | arguments).latents


@pytest.mark.parametrize(
    ("sampler", "steps", "end"),
    [
        ("euler", 10, 0.8),
        ("dpmpp_2m_karras", 10, 0.6),
        *(pytest.param(s, 10, 0.6, marks=pytest.mark.slow) for s in ("ddim", "unipc", "dpmpp_2m")),
        *(pytest.param("euler", n, 0.8, marks=pytest.mark.slow) for n, _ in SPLITS),
    ],
)
def test_final_latents(reference, pipe, sampler, steps, end):
    theirs, kept, handed_over = run_torch(reference, sampler, steps, end)
    ours = run_ours(pipe, sampler, steps, denoising_end=end)
    assert relative_error(ours, theirs) <= TOLERANCE
    assert relative_error(ours, handed_over) > 10 * TOLERANCE
    if (steps, end) in [(n, 0.8) for n, _ in SPLITS]:
        assert kept == dict(SPLITS)[steps]
    # The base networks' own end is another image.
    assert relative_error(run_ours(pipe, sampler, steps, denoising_end=1), theirs) > 0.01


def test_what_the_refiner_is_given(reference, pipe):
    """Negative prompt, sizes and scores."""
    sizes = {"original_size": (48, 80), "crops_coords_top_left": (8, 4)}
    scores = {"aesthetic_score": 90.0, "negative_aesthetic_score": 40.0}
    arguments = {"negative": NEGATIVE, "sizes": sizes, "scores": scores}
    theirs, *_ = run_torch(reference, "euler", 10, 0.3, **arguments)
    given = {"negative_prompt": NEGATIVE, "denoising_end": 0.3, **sizes, **scores}
    assert relative_error(run_ours(pipe, "euler", 10, **given), theirs) <= TOLERANCE
    for name in scores:
        other = run_ours(pipe, "euler", 10, **{k: v for k, v in given.items() if k != name})
        assert relative_error(other, theirs) > 10 * TOLERANCE, name


@pytest.mark.slow
def test_without_guidance(reference, pipe):
    theirs, *_ = run_torch(reference, "euler", 10, 0.8, guidance=1.0)
    ours = run_ours(pipe, "euler", 10, guidance_scale=1.0)
    assert relative_error(ours, theirs) <= TOLERANCE


def test_two_calls_do_what_one_does(reference, pipe):
    """Unfinished latents without a refiner, and base networks that continue, as in diffusers."""
    plain = InstantIDPipeline.load(
        **{name: str(reference.folder / name) for name in ("sdxl", "instantid")}
    )
    *_, handed_over = run_torch(reference, "euler", 10)
    first = run_ours(plain, "euler", 10, denoising_end=0.8)
    assert relative_error(first, handed_over) <= TOLERANCE
    whole = run_ours(plain, "euler", 10)
    continued = run_ours(plain, "euler", 10, denoising_start=0.8, latents=first)
    assert relative_error(continued, whole) <= 1e-6
