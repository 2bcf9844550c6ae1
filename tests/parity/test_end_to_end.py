"""Whole images: files that torch saved, sampled by both sides from the same noise.

Final latents agree within 1e-4 of the torch pipeline's, decoded images with a PSNR of 50 dB.
"""

import dataclasses

import jax
import numpy as np
import pytest

from instantid_jax import Face, InstantIDPipeline
from instantid_jax.diffusion.names import BASES
from instantid_jax.face.keypoints import draw_keypoints
from instantid_jax.pipeline.conditions.person import negative_embedding
from instantid_jax.request import Request
from tests.parity.reference import InstantIDReference, make_scheduler, relative_error, unit_noise

TOLERANCE = 1e-4
PSNR = 50.0
PROMPTS = ["a man in the rain", "a woman on mars, film noir"]
TORCH_SCHEDULERS = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", {}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "euler_trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
}
# A batch takes as many steps as its longest, and Heun's are twice as many; the rules of the others
# are parts of these. test_samplers.py compares all.
ALONE = ("heun", "ddpm", "pndm", "dpmpp_sde", "dpmpp_3m", "deis")
TOGETHER = [name for name in TORCH_SCHEDULERS if name not in ALONE]
KPS = np.array([[20, 30], [44, 28], [33, 40], [24, 50], [43, 49]], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def reference(folder):
    reference = InstantIDReference(folder, seed=7, further_controlnets=1)
    reference.save(folder)
    return reference


@pytest.fixture(scope="module")
def pipe(folder, reference):
    return InstantIDPipeline.load(sdxl=str(folder / "sdxl"), instantid=str(folder / "instantid"))


@pytest.fixture(scope="module")
def pipe_of_two(folder, reference):
    return InstantIDPipeline.load(
        sdxl=str(folder / "sdxl"),
        instantid=str(folder / "instantid"),
        controlnets=[str(folder / "controlnet_1")],
    )


def faces(count: int) -> list[Face]:
    # As long as antelopev2's raw embeddings are.
    embeddings = 20 * unit_noise(3, count, 512) / 512**0.5
    return [Face(embedding=e, kps=KPS + 3 * i) for i, e in enumerate(embeddings)]


def inputs(size: tuple[int, int], count: int) -> tuple[list[Face], np.ndarray, list[int]]:
    """Faces, unit noise and seeds of a batch."""
    noise = unit_noise(5, count, size[0] // 8, size[1] // 8, 4)
    return faces(count), noise, [11 + i for i in range(count)]


def sample(pipe, *, size=(64, 96), count=1, images=(), masks=(), **arguments):
    """Our side of a call."""
    people, noise, seeds = inputs(size, count)
    if masks:
        arguments |= {"control_mask": masks[0], "control_masks": masks[1:]}
    return pipe(
        PROMPTS[:count],
        face=people,
        height=size[0],
        width=size[1],
        latents=noise,
        seed=seeds,
        output_type="np",
        control_images=[list(p) for p in images],
        **arguments,
    )


def sample_torch(
    reference, *, size=(64, 96), count=1, images=(), masks=(), scheduler=None, **arguments
):
    """Torch's side of the same call; steps draw the noise that ours documents."""
    people, noise, seeds = inputs(size, count)
    drawn = [np.stack([draw_keypoints(*size, face.kps) for face in people]), *images]

    def step_noise(step: int) -> np.ndarray:
        keys = [jax.random.fold_in(jax.random.key(seed), step) for seed in seeds]
        return np.stack([jax.random.normal(key, noise.shape[1:]) for key in keys])

    for name in ("negative_prompt", "prompt_2", "negative_prompt_2"):
        if name in arguments:
            arguments[name] = [arguments[name]] * count
    controlnets = reference.controlnets
    reference.controlnets = controlnets[: len(drawn)]
    try:
        return reference(
            PROMPTS[:count],
            np.stack([face.embedding for face in people]),
            [image.astype(np.float32) / 255 for image in drawn],
            noise,
            scheduler=torch_scheduler(scheduler),
            step_noise=step_noise,
            masks=[None if mask is None else mask / np.float32(255) for mask in masks],
            **arguments,
        )
    finally:
        reference.controlnets = controlnets


def check(reference, pipe, **arguments) -> None:
    """Asserts that both sides make the same image."""
    ours, theirs = sample(pipe, **arguments), sample_torch(reference, **arguments)
    assert relative_error(ours.latents, theirs.latents) < TOLERANCE
    assert psnr(ours.images, theirs.images) > PSNR


def torch_scheduler(name: str | None):
    if name is None:
        return None
    class_name, settings = TORCH_SCHEDULERS[name]
    return make_scheduler(class_name, **settings)


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """PSNR of images in [0, 1], in dB."""
    return -10 * np.log10(np.mean((ours - theirs) ** 2))


def test_every_scheduler_is_compared():
    assert set(TORCH_SCHEDULERS) >= set(BASES)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(5.0, id="guided"),
        pytest.param(1.0, id="unguided", marks=pytest.mark.slow),
    ],
)
def of_all_samplers(request, pipe):
    """Guidance scale, and an image of each sampler; all of one batch."""
    (face,), noise, (seed,) = inputs((64, 96), 1)
    asked = Request(
        PROMPTS[0],
        face=face,
        height=64,
        width=96,
        latents=noise,
        seed=seed,
        guidance_scale=request.param,
        num_inference_steps=30,
    )
    requests = [dataclasses.replace(asked, scheduler=name) for name in TOGETHER]
    return request.param, pipe.run(requests, output_type="np")


@pytest.mark.parametrize("scheduler", TOGETHER)
def test_scheduler_matches_torch_after_30_steps(reference, of_all_samplers, scheduler):
    guidance_scale, ours = of_all_samplers
    theirs = sample_torch(
        reference, scheduler=scheduler, guidance_scale=guidance_scale, num_inference_steps=30
    )
    row = TOGETHER.index(scheduler)
    assert relative_error(ours.latents[row], theirs.latents[0]) < TOLERANCE
    assert psnr(ours.images[row], theirs.images[0]) > PSNR


@pytest.mark.slow
# DEIS calls np.log(tensor).
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
@pytest.mark.parametrize("scheduler", ALONE)
def test_slower_scheduler_matches_torch(reference, pipe, scheduler, guidance_scale):
    check(
        *(reference, pipe),
        scheduler=scheduler,
        guidance_scale=guidance_scale,
        num_inference_steps=30,
    )


CASES = {
    "batch of two": {"count": 2},
    "portrait": {"size": (96, 64)},
    "odd latents": {"size": (136, 200), "num_inference_steps": 10},
    "windows": {"control_guidance_start": 0.2, "control_guidance_end": 0.7},
    "scales": {"ip_adapter_scale": 0.3, "controlnet_conditioning_scale": 1.2},
    "strengths of blocks": {
        "ip_adapter_scale": {
            "down": {"block_1": 0.2, "block_2": [0.6]},
            "up": {"block_0": [0.9, 0.1]},
        }
    },
    "guess mode, guided": {"guess_mode": True},
    "guess mode, unguided": {"guess_mode": True, "guidance_scale": 1.0},
    "negative prompt": {"negative_prompt": "blurry, ugly"},
    "prompts of their own": {
        "prompt_2": "rain",
        "negative_prompt": "blurry",
        "negative_prompt_2": "snow",
    },
    "clip skip": {"clip_skip": 1, "negative_prompt": "blurry"},
    "micro-conditioning": {
        "count": 2,
        "original_size": (300, 500),
        "crops_coords_top_left": (10, 20),
        "target_size": (256, 320),
        "negative_original_size": (64, 80),
        "negative_crops_coords_top_left": (3, 4),
        "negative_target_size": (512, 600),
    },
    "eta": {"scheduler": "ddim", "eta": 0.7},
    "eta of tcd": {"scheduler": "tcd", "eta": 0.3, "guidance_scale": 1.0},
    "windows over Heun's evaluations": {
        "scheduler": "heun",
        "control_guidance_start": 0.2,
        "control_guidance_end": 0.7,
    },
}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] if c == "portrait" else []) for c in CASES]
)
def test_argument_matches_torch(reference, pipe, case):
    check(reference, pipe, **{"num_inference_steps": 6} | CASES[case])


SHAPES = ("batch of two", "portrait", "odd latents")


@pytest.mark.parametrize("case", [case for case in CASES if case not in SHAPES])
def test_argument_matters(pipe, case):
    """A comparison says nothing of an argument that changes nothing on either side."""
    arguments = CASES[case] | {"num_inference_steps": 3}
    kept = ("count", "num_inference_steps", "guidance_scale", "scheduler")
    plain = {name: value for name, value in arguments.items() if name in kept}
    moved = relative_error(sample(pipe, **arguments).latents, sample(pipe, **plain).latents)
    assert moved > 10 * TOLERANCE


def test_two_controlnets_match_torch(reference, pipe_of_two):
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    arguments = {
        "num_inference_steps": 6,
        "images": [image],
        "controlnet_conditioning_scale": [0.8, 0.5],
        "control_guidance_start": [0.0, 0.3],
        "control_guidance_end": [0.6, 1.0],
    }
    check(reference, pipe_of_two, **arguments)


def drawn_mask(seed: int) -> np.ndarray:
    """Gray levels that differ from pixel to pixel, and black edges."""
    levels = np.random.default_rng(seed).integers(0, 256, (64, 96), np.uint8)
    levels[:20] = levels[:, 70:] = 0
    return levels


@pytest.mark.parametrize(
    "arguments",
    [{}, {"guidance_scale": 1.0}, {"guess_mode": True}, {"count": 2}],
    ids=["guided", "unguided", "guess mode", "batch"],
)
def test_a_mask_matches_torch(reference, pipe, arguments):
    """The official full pipeline's control_mask, written out in torch."""
    arguments = {"num_inference_steps": 4, "masks": [drawn_mask(0)]} | arguments
    check(reference, pipe, **arguments)


def test_masks_of_two_controlnets_match_torch(reference, pipe_of_two):
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    arguments = {"num_inference_steps": 4, "images": [image]}
    masked = {"masks": [None, drawn_mask(1)]}
    check(reference, pipe_of_two, **arguments, **masked)
    without = sample(pipe_of_two, **arguments).latents
    for masks in ([None, drawn_mask(1)], [drawn_mask(0), None]):
        moved = relative_error(sample(pipe_of_two, **arguments, masks=masks).latents, without)
        assert moved > 10 * TOLERANCE


def test_the_adapters_window_matches_torch(reference, pipe):
    def on_step(i: int, latents: np.ndarray) -> None:
        if i == 2:
            reference.id_adapter.set_scale(0.0)

    ours = sample(pipe, num_inference_steps=6, ip_adapter_end=0.5)
    theirs = sample_torch(reference, num_inference_steps=6, on_step=on_step)
    assert relative_error(ours.latents, theirs.latents) < TOLERANCE
    without = sample(pipe, num_inference_steps=6)
    assert relative_error(ours.latents, without.latents) > 10 * TOLERANCE


def test_noise_of_nobody_matches_torch(reference, pipe, monkeypatch):
    arguments = {"num_inference_steps": 4, "count": 2}
    noise = np.stack([negative_embedding(seed, 0.35, 512) for seed in (11, 12)])
    id_tokens = reference.id_tokens
    monkeypatch.setattr(reference, "id_tokens", lambda e: id_tokens(e if e.any() else noise))
    ours, theirs = (
        sample(pipe, negative_id_noise=0.35, **arguments),
        sample_torch(reference, **arguments),
    )
    assert relative_error(ours.latents, theirs.latents) < TOLERANCE
    moved = relative_error(ours.latents, sample(pipe, **arguments).latents)
    assert moved > 10 * TOLERANCE
